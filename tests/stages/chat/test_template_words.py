"""What is said of a chat template: true of each kind."""

from collections.abc import Mapping
from typing import Any

import pytest

from stages.chat.rendering import compile_template
from stages.chat.template_report import written_call_tokens
from stages.chat.template_words import say_template

FACTS: Mapping[str, Any] = {
    "chat_template": {
        "system": True,
        "tools": True,
        "calls": True,
        "calls_forbidden": False,
        "stop_closes_thought": False,
        "reasoning": "field",
        "thinks": "open",
        "options_read": [],
    },
    "prompt": {"choice": "agrees", "reason": "an answer follows the prompt", "gap": "", "header": False},
    "options": {},
    "reasoning": "train",
    "end_of_turn": {"text": "<|end|>", "ids": [1], "special": True, "inner": ""},
    "answer": {"gap": "", "opens": "", "closes": "", "ends": ""},
    "bos": "added",
}
ROWS = {"rows_in": 8, "splits": {"train": {"truncated": 1}, "heldout": {"truncated": 1}}, "rejected": {"too_long": 4}}


@pytest.mark.parametrize(
    ("changed", "about", "words"),
    [
        ({}, "prompt", "an answer follows the prompt"),
        ({}, "end of turn", "'<|end|>' is trained and ends an answer: a control token"),
        (
            {"end_of_turn": {"text": "</s>", "ids": [1, 2], "special": False, "inner": ""}},
            "end of turn",
            "spelled out",
        ),
        (
            {"end_of_turn": {"text": "<|r|>", "ids": [1], "special": True, "inner": "<|e|>"}},
            "end of turn",
            "'<|e|>' behind an answer that another turn follows is context",
        ),
        ({}, "BOS", "once: the template left it to the tokenizer"),
        ({"bos": "none"}, "BOS", "none"),
        ({}, "loss", "answers with their ends; no header"),
        (
            {
                "prompt": {"choice": "train_gap", "reason": "x", "gap": "g", "header": False},
                "answer": {"gap": "<g>", "opens": "", "closes": "", "ends": ""},
            },
            "loss",
            "'<g>' before them, which the model writes; no header of a turn",
        ),
        (
            {
                "prompt": {"choice": "train_gap", "reason": "x", "gap": "g", "header": True},
                "answer": {"gap": "Bot:", "opens": "", "closes": "", "ends": ""},
            },
            "loss",
            "'Bot:' before them, which the model writes; that is their header",
        ),
        ({"reasoning": "mask"}, "loss", "no header of a turn; thoughts and the tags around them are context"),
        (
            {"answers_not_trained": {"prompt_differs": 1520}},
            "context",
            "1,520 answers of kept rows are not trained: in training the chat template writes something else",
        ),
        (ROWS, "length", "2 of 8 rows are cut (25.0%), 4 are set aside as too long (50.0%)"),
    ],
)
def test_words_are_those_of_the_facts(changed: dict[str, Any], about: str, words: str) -> None:
    assert words in say_template({**FACTS, **changed})[about]


@pytest.mark.parametrize(
    ("changed", "about", "words"),
    [
        ({"system": False}, "system", "not written"),
        ({"tools": False}, "tools", "calls are written, definitions are not"),
        ({"calls_forbidden": True, "calls": False}, "tools", "apply_chat_template fails, too"),
        ({"stop_closes_thought": True}, "thoughts", "rows with thoughts are set aside by name"),
        ({"calls": False}, "tools", "definitions are written, calls are not"),
        ({"tools": False, "calls": False}, "tools", "not written"),
        (
            {"reasoning": "none", "thinks": "closes"},
            "thoughts",
            "not written: the template knows none; the generation prompt says that there are none",
        ),
        ({"options_read": ["enable_thinking"]}, "options", "reads enable_thinking"),
    ],
)
def test_words_are_those_of_the_template(changed: dict[str, Any], about: str, words: str) -> None:
    form = {**FACTS["chat_template"], **changed}
    assert words in say_template({**FACTS, "chat_template": form})[about]
    assert "length" not in say_template(FACTS), "no row has gone through"


def test_tokens_of_calls_are_those_that_the_template_writes_around_one() -> None:
    source = (
        "{% for m in messages %}{% if m.tool_calls %}{{ '<|start|>' + m.tool_calls[0].function.name + '<|call|>' }}"
        "{% else %}{{ m.content + '<|end|>' }}{% endif %}{% endfor %}"
    )
    assert written_call_tokens(compile_template(source, {}, "26 Jul 2024")) == ["<|end|>", "<|start|>", "<|call|>"]
    assert written_call_tokens(compile_template("{{ raise_exception('no') }}", {}, "26 Jul 2024")) == []
