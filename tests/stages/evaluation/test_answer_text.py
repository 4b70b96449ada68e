"""Ids that a model said -> the answer that people read, over a small byte-level vocabulary with control tokens."""

import pytest

from stages.contracts.tokens import AnswerForm
from stages.evaluation.answer_text import Said, read_answer
from tests.stages.chat.test_encoding import byte_level

CONTROLS = ["<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|return|>"]
NOTHING = AnswerForm(gap="", opens="", closes="", ends="")
TAGS = AnswerForm(gap="<think>\n\n</think>", opens="<think>", closes="</think>", ends="")
AT_ONCE = AnswerForm(gap="", opens="", closes="</think>", ends="")
CHANNELS = AnswerForm(
    gap="<|channel|>final<|message|>",
    opens="<|channel|>analysis<|message|>",
    closes="<|end|><|start|>assistant<|channel|>final<|message|>",
    ends="",
)
FINAL = "<|channel|>final<|message|>"


@pytest.mark.parametrize(
    ("form", "said", "expected"),
    [
        (NOTHING, " Up.\n<|return|>", Said(None, "Up.")),
        (TAGS, "<think>\n\n</think>\n\nthe lamp<|return|>", Said(None, "the lamp")),
        (TAGS, "<think>\nwhere? 世界\n</think>\n\nthe lamp<|return|>", Said("where? 世界", "the lamp")),
        (TAGS, "<think>a</think>b", Said("a", "b")),
        (TAGS, "the <think>lamp</think>", Said(None, "the <think>lamp</think>")),
        (TAGS, "<think>never done", Said("never done", "")),
        (AT_ONCE, "where?\n</think>\n\nthe lamp<|return|>", Said("where?", "the lamp")),
        (CHANNELS, FINAL + "the final lamp<|return|>", Said(None, "the final lamp")),
        (
            CHANNELS,
            f"<|channel|>analysis<|message|>where?<|end|><|start|>assistant{FINAL}the lamp<|return|>",
            Said("where?", "the lamp"),
        ),
        (CHANNELS, "<|channel|>analysis<|message|>where?<|end|>", Said("where?", "")),
        (CHANNELS, "the lamp", Said(None, "the lamp")),
        (CHANNELS, "<|return|>", Said(None, "")),
    ],
)
def test_answer_is_told_from_thoughts_and_the_templates_own_words(form: AnswerForm, said: str, expected: Said) -> None:
    tokenizer = byte_level(CONTROLS)
    ids = tokenizer.encode(said, add_special_tokens=False).ids
    assert read_answer(tokenizer, ids, [tokenizer.token_to_id("<|return|>")], form) == expected


def test_control_token_that_is_text_in_an_answer_is_kept() -> None:
    tokenizer = byte_level(CONTROLS)
    spelled = [tokenizer.token_to_id(letter) for letter in "<|end|>"]
    ids = [*tokenizer.encode(FINAL, add_special_tokens=False).ids, *spelled]
    assert read_answer(tokenizer, ids, [0], CHANNELS) == Said(None, "<|end|>")
