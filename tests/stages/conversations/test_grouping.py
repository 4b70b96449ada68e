import json

import pytest

from stages.conversations.canonical import Conversation
from stages.conversations.grouping import check_group_column, group_of
from stages.core.errors import StageError


def talk(*answers: str, row_id: str = "ab" * 16) -> Conversation:
    return Conversation(
        row_id, [turn for answer in answers for turn in (("user", "q"), ("assistant", answer))], None, None, (), None
    )


def test_group_is_the_answers_whatever_the_question_case_and_edges() -> None:
    assert group_of(talk("In Oslo."), b"{}", "answer") == group_of(talk(" in oslo", row_id="cd" * 16), b"{}", "answer")
    assert group_of(talk("In Oslo."), b"{}", "answer") != group_of(talk("In Oslo.", "In Rome."), b"{}", "answer")
    assert group_of(talk("In Oslo."), b"{}", None) == "ab" * 16


@pytest.mark.parametrize("value", [5, "5", 0, False, ["a"], {"b": 1, "a": 2}, ""])
def test_group_is_the_columns_value(value: object) -> None:
    group = group_of(talk("x"), json.dumps({"topic": value, "other": 1}).encode(), "topic")
    assert group == group_of(talk("y", row_id="cd" * 16), json.dumps({"topic": value}).encode(), "topic")
    assert group != group_of(talk("x"), json.dumps({"topic": [value]}).encode(), "topic")
    assert len(group) == 32


def test_row_without_a_value_is_a_group_of_its_own() -> None:
    for record in (b"{}", b'{"topic": null}'):
        assert group_of(talk("x"), record, "topic") == "ab" * 16


def test_column_that_a_source_has_not_is_refused_with_those_it_has() -> None:
    rows = [b'{"topic": 1, "q": ""}', b"{broken"]
    for fine in (None, "answer", "topic"):
        check_group_column([("one", rows)], fine)
    with pytest.raises(
        StageError, match=r"no row of two has the column `topic` \(looked at: the first 1\)\. It has `q`, `a`: name one"
    ):
        check_group_column([("one", rows), ("two", [b'{"q": "", "a": ""}'])], "topic")
