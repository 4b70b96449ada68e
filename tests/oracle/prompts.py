"""A chat template with a small vocabulary through the stage `template`, and the same dialogues asked of all that answers afterwards."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retune.use.presets import read_preset
from stages.arrow.tables import read_parquet
from stages.chat.reasoning import Style, hand_over
from stages.chat.rendering import Message
from stages.contracts import tokens as contract
from stages.core.files import read_json
from stages.core.params import Runtime
from stages.template import TemplateParams, template
from tests.oracle.small_gguf import write_small_gguf
from tests.oracle.test_families import CONTROL
from tests.project import ROOT
from tests.stages.chat.support.talks import write_messages
from tests.stages.chat.test_encoding import byte_level
from tests.stages.training.support.tiny import RUNTIME


@dataclass(frozen=True)
class Asked:
    """One answer that was trained, and what stood before it."""

    talk: int
    """Which dialogue."""
    messages: list[Message]
    """Those before the answer."""
    prompt: list[int]
    """The ids before its labels, which evaluate, merge and gguf begin from."""


@dataclass(frozen=True)
class Templated:
    """What the stage made of a template."""

    tokens: Path
    """data/tokens"""
    asked: list[Asked]
    rejected: dict[str, int]
    """Dialogues by the rule that set them aside."""


def run_template(root: Path, source: str, talks: Sequence[Sequence[Message]], **changed: object) -> Templated:
    """Write the tokens of dialogues below a folder. Raises StageError where the stage refuses the template.

    The vocabulary has all that looks like a control token in the template's source.
    """
    folder = root / "tokenizer"
    folder.mkdir(parents=True)
    byte_level(sorted({*CONTROL.findall(source), "<bos>", "<eos>"})).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<bos>", "eos_token": "<eos>"}))
    (folder / "chat_template.jinja").write_text(source, encoding="utf-8")
    values = {**read_preset(ROOT, "demo")["template"], "max_length": 100_000, **changed}
    write_messages(root / "messages", {"train": talks})
    runtime = Runtime.model_validate({**RUNTIME, "workers": 1, "log_level": "warning"})
    template(
        root / "messages", folder, root / "custom", root / "tokens", TemplateParams.model_validate(values), runtime
    )
    rules = [row["rule"] for row in read_parquet(root / "tokens" / contract.REJECTED).to_pylist()]
    return Templated(
        root / "tokens", read_asked(root / "tokens", talks), {rule: rules.count(rule) for rule in sorted(set(rules))}
    )


def read_asked(tokens: Path, talks: Sequence[Sequence[Message]]) -> list[Asked]:
    """Each answer with a label, with the dialogue before it. Where not all answers of a dialogue bear loss, those that do are its last."""
    found = []
    for row in contract.read_tokens(tokens / contract.TRAIN).to_pylist():
        number = int(row["row_id"], 16)
        talk = talks[number]
        spans = contract.answers(row["input_ids"], row["labels"])
        places = [at for at, message in enumerate(talk) if message["role"] == "assistant"]
        for (start, _), at in zip(spans, places[-len(spans) :], strict=True):
            found.append(Asked(number, list(talk[:at]), row["input_ids"][:start]))
    return found


def write_served(made: Templated, folder: Path) -> None:
    """What `tests.oracle.served_prompts` reads: the file, and what is asked of it."""
    from stages.gguf_export.tokenization_check import begins_with_bos

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = open_tokenizer(made)
    write_small_gguf(folder / "model.gguf", made.tokens / contract.TOKENIZER, adds_bos=begins_with_bos(tokenizer))
    asked = [as_published(one.messages, read_style(made.tokens)) for one in made.asked]
    (folder / "asked.json").write_text(json.dumps(asked), encoding="utf-8")


def read_style(tokens: Path) -> Style:
    """How the template of data/tokens takes thoughts."""
    style: Style = read_json(tokens / contract.SUMMARY)["chat_template"]["reasoning"]
    return style


def open_tokenizer(made: Templated) -> Any:
    """The tokenizer of data/tokens as people load it."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(made.tokens / contract.TOKENIZER)


def as_published(messages: Sequence[Message], style: Style) -> list[dict[str, Any]]:
    """Messages as a client of llama.cpp's server sends them: thoughts in the field that it hands on, or in the text of a template that takes none."""
    given = hand_over(messages, style) if style == "inline" else messages
    return [
        {"reasoning_content" if key == "reasoning" else key: value for key, value in message.items()}
        for message in given
    ]


def ask_tokenizer(made: Templated) -> list[list[int]]:
    """The prompts by transformers' `apply_chat_template` with the tokenizer of data/tokens."""
    tokenizer, style = open_tokenizer(made), read_style(made.tokens)
    return [
        tokenizer.apply_chat_template(hand_over(one.messages, style), add_generation_prompt=True, return_dict=False)
        for one in made.asked
    ]


def ask_all(made: Templated, file: Path) -> dict[str, list[list[int] | str]]:
    """By who answers, the prompts of all that was asked; a text where somebody refuses."""
    from retune.chat.dialogue import prompt_ids
    from retune.chat.gguf_model import open_gguf
    from retune.chat.torch_model import TorchSpeaker
    from stages.core.errors import StageError

    def ask(speaker: Any, messages: list[Message]) -> list[int] | str:
        try:
            return prompt_ids(speaker, messages)
        except StageError as error:
            return str(error)

    in_memory = TorchSpeaker(None, made.tokens, frozenset(), "cpu", 100_000)
    found: dict[str, list[list[int] | str]] = {
        "transformers": [*ask_tokenizer(made)],
        "chat --adapter": [ask(in_memory, one.messages) for one in made.asked],
    }
    with open_gguf(file, 256, 1) as speaker:
        found["chat"] = [ask(speaker, one.messages) for one in made.asked]
    served = json.loads(file.with_name("served.json").read_text(encoding="utf-8"))
    found["serve"] = [one.get("ids", one.get("error")) for one in served]
    return found
