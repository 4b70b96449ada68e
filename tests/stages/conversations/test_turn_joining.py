from pathlib import Path

import pytest

from stages.conversations.turn_joining import merge_same_role
from tests.stages.test_standardize import ANSWERED, ASKED, CALLED, TOOLS, Result, message, row, run

SYSTEM, SECOND = message("system", "s"), message("user", "r")


def test_neighbours_of_one_role_are_joined_where_the_param_says_so(tmp_path: Path) -> None:
    records = [
        row(ASKED, SECOND, ANSWERED),
        row(ASKED, ANSWERED, message("assistant", "b"), message("assistant", "c")),
        row(message("user", "alone"), ANSWERED),
    ]
    joined = run(tmp_path, records, heldout_fraction=0, turns="merge_same_role")
    assert joined.turns() == [
        [("user", "q\n\nr"), ("assistant", "a")],
        [("user", "q"), ("assistant", "a\n\nb\n\nc")],
        [("user", "alone"), ("assistant", "a")],
    ]
    assert (joined.summary["merged"], joined.summary["greetings"]) == (2, 0)
    strict = run(tmp_path, records, heldout_fraction=0, name="strict")
    assert strict.rules() == dict.fromkeys((0, 1), "roles_not_alternating")
    assert strict.summary["merged"] == 0


def test_neighbours_that_one_message_cannot_say_stay_apart() -> None:
    answer, thinking = ("assistant", "a"), ("assistant", "b", {"reasoning": "t"})
    call = ("assistant", "", {"tool_calls": [CALLED]})
    for second in (thinking, call, ("assistant", "b", {"train": False})):
        assert merge_same_role([answer, second]) == [answer, second]
    assert merge_same_role([thinking, answer]) == [("assistant", "b\n\na", {"reasoning": "t"})]
    assert merge_same_role([("tool", "x"), ("tool", "y")]) == [("tool", "x"), ("tool", "y")]
    context = ("assistant", "b", {"train": False})
    assert merge_same_role([context, context]) == [("assistant", "b\n\nb", {"train": False})]


def keep_greetings(tmp_path: Path, *records: bytes) -> Result:
    return run(tmp_path, [row(ASKED, ANSWERED), *records], heldout_fraction=0, turns="greeting_first")


def test_greeting_is_kept_as_context(tmp_path: Path) -> None:
    greeting = message("assistant", "Welcome!")
    found = keep_greetings(tmp_path, row(greeting, SECOND, ANSWERED), row(SYSTEM, greeting, SECOND, ANSWERED))
    assert [[said["train"] for said in kept["messages"]] for kept in found.kept] == [
        [True, True],
        [False, True, True],
        [True, False, True, True],
    ]
    assert found.summary["greetings"] == 2


@pytest.mark.parametrize(
    ("messages", "rule"),
    [
        ((message("assistant", "Hi"),), "starts_with_answer"),
        ((SYSTEM, message("assistant", "Hi")), "starts_with_answer"),
        ((message("assistant", "Hi"), ANSWERED, SECOND, ANSWERED), "starts_with_answer"),
        ((message("assistant", "Hi"), SECOND), "ends_without_answer"),
        ((message("assistant", "", tool_calls=[CALLED]), message("tool", "t"), ANSWERED), "starts_with_answer"),
        ((message("assistant", "Hi"), SECOND, message("assistant", "a", weight=0)), "nothing_to_train"),
    ],
)
def test_what_is_no_greeting_keeps_its_rule(tmp_path: Path, messages: tuple[dict[str, object], ...], rule: str) -> None:
    assert keep_greetings(tmp_path, row(*messages, tools=TOOLS)).rules() == {1: rule}
