"""Thoughts are one thing, wherever a dataset puts them, and the answer behind them is kept exact."""

import json
from typing import Any

import pytest

from stages.conversations.canonical import read_conversation
from stages.conversations.reasoning import may_hold_thoughts, split_inline
from stages.conversations.row_rules import RULES, Rejected
from tests.layouts import detect
from tests.stages.test_standardize import ASKED, TOOLS, message, row

THOUGHTS = "Two and two\nmake four."


def read(record: bytes) -> Any:
    return read_conversation(
        record,
        detect(json.loads(record)),
        may_repeat_keys=True,
        columnar=False,
        turns="strict",
        max_messages=None,
        max_chars=None,
    )


SAID = [
    *[message("assistant", "It is 4.", **{key: THOUGHTS}) for key in ("reasoning_content", "reasoning", "thinking")],
    message("assistant", "It is 4.", reasoning_content=f"\n{THOUGHTS}\n", reasoning=THOUGHTS, thinking=""),
    message("assistant", "It is 4.", reasoning_content=f"<think>\n{THOUGHTS}\n</think>"),
    message("assistant", "It is 4.", reasoning_content=[{"type": "text", "text": THOUGHTS}]),
    *[
        message("assistant", [{"type": kind, key: THOUGHTS}, {"type": "text", "text": "It is 4."}])
        for kind, key in [
            *[("reasoning", key) for key in ("text", "value", "reasoning")],
            *[("thinking", key) for key in ("text", "value", "thinking")],
            ("reasoning_text", "text"),
        ]
    ],
    message("assistant", [{"type": "thinking", "thinking": [{"type": "text", "text": THOUGHTS}]}, {"type": "text", "text": "It is 4."}]),
    message("assistant", [{"type": "thinking", "thinking": THOUGHTS, "signature": "s"}, {"type": "text", "text": "It is 4."}]),
    *[
        message("assistant", text)
        for text in (
            f"<think>\n{THOUGHTS}\n</think>\n\nIt is 4.",
            f"<think>{THOUGHTS}</think>It is 4.",
            f"\n<think>\r\n{THOUGHTS}\r\n</think>\r\n\r\nIt is 4.",
            f"<thinking>\n{THOUGHTS}\n</thinking>\nIt is 4.",
            f"<|begin_of_thought|>\n\n{THOUGHTS}\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\nIt is 4.\n\n<|end_of_solution|>",
            f"<|begin_of_thought|>{THOUGHTS}<|end_of_thought|>It is 4.",
        )
    ],
    message("assistant", f"<think>\n{THOUGHTS}\n</think>\n\nIt is 4.", reasoning_content=THOUGHTS),
]  # fmt: skip


@pytest.mark.parametrize("said", SAID, ids=range(len(SAID)))
def test_thoughts_are_the_same_conversation_wherever_they_stand(said: dict[str, object]) -> None:
    found = read(row(ASKED, said))
    assert found.rule is None
    assert found.messages == [("user", "q"), ("assistant", "It is 4.", {"reasoning": THOUGHTS})]
    assert found.row_id == read(row(ASKED, SAID[0])).row_id


@pytest.mark.parametrize(
    "said",
    [
        message("assistant", "a", reasoning_content=None, reasoning="", thinking=" \n"),
        message("assistant", "<think>\n\n</think>\n\na"),
        message("assistant", "<think></think>a", reasoning_content=None),
        message("assistant", [{"type": "thinking", "thinking": ""}, {"type": "text", "text": "a"}]),
    ],
)
def test_thoughts_that_are_nothing_are_none(said: dict[str, object]) -> None:
    assert read(row(ASKED, said)).messages == [("user", "q"), ("assistant", "a")]


@pytest.mark.parametrize(
    "answer",
    [
        *("\nstarts with a line end", " starts with a blank", "ends\n\n", "x > y, I think", "a <think> b"),
        *("Use <thinking>tags</thinking> here.", "<thinker>a</thinker>", "<b>bold</b>", "</thinking> b"),
    ],
)
def test_answer_without_thoughts_is_text_to_the_letter(answer: str) -> None:
    assert read(row(ASKED, message("assistant", answer))).messages[1] == ("assistant", answer)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>t</think>\n\n  indented\n", "  indented\n"),
        ("<think>t</think> a", " a"),
        ("<think>t</think>\n\n```\nx\n```\n", "```\nx\n```\n"),
        ("<think>t</think>a <think> b", "a <think> b"),
        ("<think>a < b > c, </thinking></think>d", "d"),
    ],
)
def test_answer_behind_thoughts_loses_the_line_ends_of_the_tag_alone(text: str, answer: str) -> None:
    assert split_inline(text)[1] == answer


def test_what_the_quick_look_lets_by_holds_no_tags() -> None:
    for text in (said["content"] for said in SAID if isinstance(said["content"], str)):
        assert may_hold_thoughts(text) == ("think" in text or "_thought" in text)


def test_tags_are_text_where_the_user_the_system_or_a_tool_writes_them() -> None:
    text = "<think>x</think> y</think>"
    given = row(
        message("system", text),
        message("user", text),
        message("assistant", "", tool_calls=[{"function": {"name": "f", "arguments": {}}}]),
        message("tool", text),
        message("assistant", "a"),
        tools=TOOLS,
    )
    found = read(given)
    assert found.rule is None
    assert [said[1] for said in found.messages] == [text, text, "", text, "a"]


def test_thoughts_before_a_call_are_kept_however_the_call_stands() -> None:
    call = {"name": "f", "arguments": {"x": 1}}
    records = [
        row(ASKED, message("assistant", "<think>\nt\n</think>\n\n", tool_calls=[call]), tools=TOOLS),
        row(ASKED, message("assistant", None, tool_calls=[call], reasoning_content="t"), tools=TOOLS),
        row(ASKED, message("assistant", "<think>t</think>"), message("tool_call", json.dumps(call)), tools=TOOLS),
        row(ASKED, message("assistant", "", reasoning="t"), message("function_call", json.dumps(call)), tools=TOOLS),
        row(ASKED, message("tool_call", json.dumps(call), reasoning_content="t"), tools=TOOLS),
        row(ASKED, message("assistant", [{"type": "thinking", "thinking": "t"}, {"type": "tool_use", "name": "f", "input": {"x": 1}}]), tools=TOOLS),
    ]  # fmt: skip
    beside = {"tool_calls": [{"type": "function", "function": call}], "reasoning": "t"}
    for record in records:
        found = read(record)
        assert found.rule is None
        assert found.messages == [("user", "q"), ("assistant", "", beside)]


def test_parts_of_thoughts_before_an_answer_are_one() -> None:
    parts = [
        {"type": "thinking", "thinking": "t"},
        {"type": "thinking", "thinking": "u"},
        {"type": "text", "text": "a"},
    ]
    assert read(row(ASKED, message("assistant", parts))).messages[1] == ("assistant", "a", {"reasoning": "t\n\nu"})


def test_thoughts_of_the_end_of_a_tag_in_half_are_set_aside_and_never_cut() -> None:
    for text in ("t\n</think>\n\na", "<think>t", "a<|end_of_thought|>b"):
        with pytest.raises(Rejected) as caught:
            split_inline(text)
        assert caught.value.rule in RULES
