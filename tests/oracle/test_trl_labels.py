"""TRL's training templates mark what of a dialogue is trained; ours must be the same text, from the generation prompt to the end of turn.

They mark the header, too, where it is one with the answer's block, and the line end behind the turn: neither is the model's to say.
"""

import importlib.util
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from stages.chat.encoding import EncodedRow
from stages.chat.pinning import strip_header
from stages.chat.rendering import Dialogue, Message
from tests.oracle.test_families import CONTROL
from tests.stages.chat.test_encoding import byte_level, opened, rows_of, trained

pytestmark = pytest.mark.slow

ASKED: Message = {"role": "user", "content": "where is it?"}
PLAIN: Message = {"role": "assistant", "content": "Up."}
THINKS: Message = {**PLAIN, "reasoning": "I look up."}

FAMILIES = {
    "qwen3": (PLAIN, THINKS),
    "qwen3_5_think": (PLAIN, THINKS),
    "qwen3_8": (PLAIN, THINKS),
    "qwen3_instruct_2507": (PLAIN, THINKS),
    "gptoss": (PLAIN, THINKS),
    "glm4moe": (PLAIN, THINKS),
    "muse_glimmer": (PLAIN, THINKS),
    "diffusion_gemma": (PLAIN, THINKS),
    "llama3": (PLAIN,),
    # without a thought theirs goes on differently from the prompt, which opens one
    "nemotron_3_nano": (THINKS,),
    "nemotron_3_ultra": (THINKS,),
    "deepseek_r1_distill": (THINKS,),
}


def read(name: str) -> str:
    package = importlib.util.find_spec("trl")
    assert package is not None
    assert package.submodule_search_locations
    return (Path(package.submodule_search_locations[0]) / "chat_templates" / f"{name}.jinja").read_text(
        encoding="utf-8"
    )


def hand(message: Message, *, inline: bool) -> dict[str, Any]:
    """A message as TRL's users bring it."""
    thought = message.get("reasoning")
    if not thought:
        return dict(message)
    if inline:
        return {"role": "assistant", "content": f"<think>\n{thought}\n</think>\n\n{message['content']}"}
    return {**message, "reasoning_content": thought, "thinking": thought}


@pytest.mark.parametrize(("family", "answer"), [(name, answer) for name in FAMILIES for answer in FAMILIES[name]])
def test_trained_text_is_that_of_trls_training_template(family: str, answer: Message) -> None:
    from transformers import PreTrainedTokenizerFast

    source = read(family)
    tokenizer = byte_level(sorted({*CONTROL.findall(source), "<bos>", "<eos>"}))
    chat = opened(strip_header(source), tokenizer)
    (row,) = rows_of(chat, [Dialogue([ASKED, answer])])
    assert isinstance(row, EncodedRow), row
    (ours,) = trained(chat, row)

    theirs = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>")
    handed = [ASKED, hand(answer, inline=chat.turns.style in ("prompt", "inline"))]
    found = theirs.apply_chat_template(
        handed,
        chat_template=read(f"{family}_training"),
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    marked = [index for index, mark in zip(found["input_ids"], found["assistant_masks"], strict=True) if mark]
    text = tokenizer.decode(marked, skip_special_tokens=False).rstrip("\n")
    prompt = chat.turns.template.render([ASKED], add_generation_prompt=True)
    assert text.endswith(ours)
    assert prompt.endswith(text.removesuffix(ours)), "what they mark beyond ours is the prompt's"


def test_end_of_an_earlier_answer_is_trained_by_trls_gpt_oss_template_and_not_by_ours() -> None:
    """A difference that is wanted: `<|end|>` ends thoughts, too, and no program stops there (docs/decisions/0028)."""
    from transformers import PreTrainedTokenizerFast

    source = read("gptoss")
    tokenizer = byte_level(sorted({*CONTROL.findall(source), "<bos>", "<eos>"}))
    chat = opened(strip_header(source), tokenizer)
    messages = [ASKED, PLAIN, ASKED, PLAIN]
    (row,) = rows_of(chat, [Dialogue(messages)])
    assert isinstance(row, EncodedRow), row
    theirs = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>")
    found = theirs.apply_chat_template(
        messages,
        chat_template=read("gptoss_training"),
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    marks, ids = found["assistant_masks"], found["input_ids"]
    first, last = (
        tokenizer.decode([index for index, _ in run], skip_special_tokens=False)
        for marked, run in groupby(zip(ids, marks, strict=True), key=lambda one: one[1])
        if marked
    )
    ours = trained(chat, row)
    assert first == f"<|start|>assistant{ours[0]}<|end|>"
    assert last == f"<|start|>assistant{ours[1]}"
    assert last.endswith("<|return|>")
