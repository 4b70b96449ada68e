"""Which template, which tokenizer: what `template` decides before it reads a row.

The tokenizer that comes out ends a turn with its eos_token, pads with another token, and carries a chat template with
the date (and, where the template left it out, the BOS) written in.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from stages.chat.chat import Chat, Encoder, control_tokens, is_control_token, missing_control_tokens, open_chat
from stages.chat.pinning import pin_template, strip_header
from stages.chat.prompt_choice import PromptChoice, WantedPrompt, choose_prompt
from stages.chat.reasoning import Reasoning
from stages.chat.rendering import Template, compile_template
from stages.chat.template_report import written_call_tokens
from stages.chat.turns import Turns, make_placeholders, open_turns
from stages.core.errors import StageError
from stages.tokenization.loading.tokenizer_folder import (
    NEW_PAD,
    TokenizerFolder,
    add_tokens,
    choose_pad,
    load_tokenizer,
    writes_bos,
)

OURS = Path(__file__).parent / "templates"

Missing = Literal["text", "add", "error"]
BosWriter = Literal["template", "added", "none"]
OpenEncoder = Callable[[bytes, Tokenizer], Encoder]
"""tokenizer.json and its tokenizer -> what encodes texts with it."""


@dataclass(frozen=True)
class TemplateChoice:
    """The template and the tokenizer as they will be used and written."""

    source: bytes
    """tokenizer.json"""
    tokens: dict[str, str]
    """The special tokens by name."""
    chat_template: str
    """The source that is saved: date and BOS pinned in its head."""
    chat: Chat
    spelled: list[str]
    added: list[str]
    bos: BosWriter
    prompt: PromptChoice


@dataclass(frozen=True)
class TemplateWishes:
    """What the params ask of the template; each as in template's params."""

    name: str
    """chat_template"""
    date_string: str
    missing_tokens: Missing
    """missing_control_tokens"""
    options: Mapping[str, Any]
    prompt: WantedPrompt
    reasoning: Reasoning


def prepare(came: TokenizerFolder, custom: Path, wishes: TemplateWishes, open_encoder: OpenEncoder) -> TemplateChoice:
    """Choose the template and where the model takes over from it; add what the vocabulary must have; make its end of turn the eos_token, and padding another.

    BOS: once. Where the template writes none and the tokenizer's own encoding would, the saved template writes it,
    so that all who render with it get the ids that were trained on.
    """
    tokenizer = load_tokenizer(came.source)
    compile_source = partial(
        compile_template, special_tokens=came.tokens, date_string=wishes.date_string, options=wishes.options
    )
    prompt = choose_prompt(strip_header(choose_template(came, custom, wishes.name)), compile_source, wishes.prompt)
    text, probe = prompt.source, compile_source(prompt.source)
    missing = missing_control_tokens(probe, tokenizer)
    if missing and wishes.missing_tokens == "error":
        msg = (
            f"the chat template writes {', '.join(missing)}, which the vocabulary does not have; choose another "
            "template.chat_template (plain needs none), or template.missing_control_tokens: text or add"
        )
        raise StageError(msg)
    added = []
    if missing and wishes.missing_tokens == "add":
        known = tokenizer.get_vocab(with_added_tokens=True)
        added = list(dict.fromkeys([*missing, *(one for one in written_call_tokens(probe) if one not in known)]))
    spelled = [token for token in missing if token not in added]
    source = came.source
    if added:
        source = add_tokens(source, added)
        tokenizer = load_tokenizer(source)

    controls = control_tokens(tokenizer)
    turns = open_turns(probe, [token.content for token in controls.values()], spelled)
    end = turns.stop
    tokens = dict(came.tokens)
    if is_control_token(tokenizer, controls, end):
        tokens["eos_token"] = end
    pad = choose_pad(tokenizer, tokens, tokens.get("eos_token", end), written_tokens(turns))
    if pad is None:
        pad = NEW_PAD
        added = [*added, pad]
        source = add_tokens(came.source, added)
        tokenizer = load_tokenizer(source)
    tokens["pad_token"] = pad

    bos = who_writes_bos(probe, tokenizer, came)
    # a template that reads eos_token or pad_token was written for the tokens as they came
    former = {name: came.tokens[name] for name in came.tokens if came.tokens[name] != tokens.get(name)}
    saved = pin_template(text, wishes.date_string, set_tokens=former, write_bos=bos == "added", options=wishes.options)
    # as others will load it: nobody gives them the options
    compiled = compile_template(saved, tokens, wishes.date_string)
    chat = open_chat(tokenizer, open_encoder(source, tokenizer), compiled, spelled, wishes.reasoning)
    return TemplateChoice(source, tokens, saved, chat, spelled, added, bos, prompt)


def who_writes_bos(template: Template, tokenizer: Tokenizer, came: TokenizerFolder) -> BosWriter:
    """The template itself; "added": the tokenizer's own encoding would, so the saved template has to; or nobody."""
    bos = came.tokens.get("bos_token")
    if not bos:
        return "none"
    if template.render(make_placeholders(("user", "assistant"))).lstrip().startswith(bos):
        return "template"
    return "added" if writes_bos(tokenizer, came.config, bos) else "none"


def list_our_templates() -> list[str]:
    """The names of our own templates."""
    return sorted(path.stem for path in OURS.glob("*.jinja"))


def choose_template(came: TokenizerFolder, custom: Path, name: str) -> str:
    """The source of the template that the params name. Raises StageError if there is none."""
    if name == "tokenizer":
        if came.chat_template is None:
            msg = (
                "this tokenizer came without a chat template; set template.chat_template to one of ours "
                f"({', '.join(list_our_templates())}) or to a .jinja file in data/custom"
            )
            raise StageError(msg)
        return came.chat_template
    if name in list_our_templates():
        return (OURS / f"{name}.jinja").read_text(encoding="utf-8")
    path = custom / Path(name).name
    if not path.is_file():
        msg = f"template.chat_template names {name}, but {custom.name}/{path.name} does not exist; put the file there"
        raise StageError(msg)
    return path.read_text(encoding="utf-8")


def written_tokens(turns: Turns) -> set[str]:
    """The special tokens that the template writes around a plain dialogue."""
    return set(
        turns.special.findall(
            turns.template.render(make_placeholders(("user", "assistant")), add_generation_prompt=True)
        )
    )
