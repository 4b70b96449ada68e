"""Every key of a row is read, or told: planted keys of any name, in any place that a layout has."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from stages.conversations.canonical import Conversation, read_conversation
from stages.conversations.dialects import Dialect
from stages.conversations.note_counts import MOST_NAMES, NoteCounts
from stages.conversations.row_notes import COLUMN, MESSAGE_KEY, shorten
from tests.layouts import LAYOUTS, Layout, detect
from tests.stages.test_standardize import ANSWERED, ASKED, message, row, run

PLANTED = "planted"
SCHEMAS = ("arguments", "input", "args", "parameters", "input_schema", "response")
"""What stands in these is the author's: no key of it is unknown."""
UNREAD = ("openai_moderation", "metadata", "options")
"""Columns that are told whole."""


def find_places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The paths of all objects in a row."""
    if isinstance(value, dict):
        yield path
        for key, inner in value.items():
            if not path or key not in SCHEMAS:
                yield from find_places(inner, (*path, key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from find_places(inner, (*path, place))


def plant(given: dict[str, Any], path: tuple[str | int, ...], key: str = PLANTED) -> bytes:
    """The row with one more key in the object at a path; what was JSON text is JSON text again."""
    opened = open_texts(given)
    value: Any = opened
    for step in path:
        value = value[step]
    value[key] = "something"
    return orjson.dumps(
        {
            name: json.dumps(value) if isinstance(given.get(name), str) and not isinstance(value, str) else value
            for name, value in opened.items()
        }
    )


def open_texts(given: dict[str, Any]) -> dict[str, Any]:
    """The row with columns of JSON text as values."""
    opened = copy.deepcopy(given)
    for name, value in opened.items():
        if isinstance(value, str) and value[:1] in ("[", "{"):
            try:
                opened[name] = json.loads(value)
            except ValueError:
                continue
    return opened


def read(record: bytes, dialect: Dialect, *, turns: str = "strict", columnar: bool = False) -> Conversation:
    return read_conversation(
        record, dialect, may_repeat_keys=True, columnar=columnar, turns=turns, max_messages=None, max_chars=None
    )


def is_dropped(path: tuple[str | int, ...], layout: Layout) -> bool:
    """Whether an object is left out as a whole, and said to be: a column that nothing reads, a branch of a tree that is not taken."""
    return path[:1] in [(name,) for name in UNREAD] or (
        "tree of replies" in (layout.name or "") and "replies" in path and path[:3] != ("prompt", "replies", 1)
    )


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout.name], ids=lambda layout: layout.sets)
def test_planted_key_is_told_wherever_a_layout_has_an_object(layout: Layout) -> None:
    dialect = detect(layout.row)
    for path in find_places(open_texts(layout.row)):
        if not is_dropped(path, layout):
            found = read(plant(layout.row, path), dialect)
            assert [name for _, name in found.notes if name.endswith(PLANTED)], path
            assert found.rule is None


def test_of_200_planted_keys_200_are_told(tmp_path: Path) -> None:
    call = {"type": "function", "id": "c", "function": {"name": "f", "arguments": {"x": 1}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    given = {
        "messages": [
            message("user", [{"type": "text", "text": "q"}]),
            message("assistant", None, tool_calls=[call]),
            message("tool", "t", tool_call_id="c"),
            message("assistant", [{"type": "thinking", "thinking": "t"}, {"type": "text", "text": "a"}]),
        ],
        "tools": [tool],
    }
    paths = [path for path in find_places(given) if "properties" not in path]
    records = [plant(given, paths[number % len(paths)], f"{PLANTED} {number}") for number in range(200)]
    result = run(tmp_path, records)
    ignored, handed_on = result.summary["ignored"], result.summary["handed_on"]
    told = [name for names in (ignored["columns"], ignored["message_keys"], handed_on) for name in names]
    assert {name.rsplit(".", 1)[-1] for name in told} == {f"{PLANTED} {number}" for number in range(200)}
    assert len(told) == 200
    assert ignored["more"] == 0


def test_keys_are_counted_by_rows_that_have_something_there(tmp_path: Path) -> None:
    records = [
        row(message("user", "q 1", name="Ann"), message("assistant", "a", name="Bob"), source="s", empty=""),
        row(message("user", "q 2", name=None), message("assistant", "a", name=""), source="s", score=0),
        row(message("user", "q 3", weight=0), message("assistant", "a", weight=1), source=None, train_on_input=False),
        row(message("user", "q 4", weight=1), ANSWERED, tools=[], functions="[]"),
        row(message("narrator", "q 5", name="Ann"), ANSWERED, source="s"),
    ]
    ignored = run(tmp_path, records, heldout_fraction=0).summary["ignored"]
    assert ignored == {
        "columns": {"source": 2, "score": 1, "train_on_input": 1},
        "message_keys": {"messages[].name": 1, "messages[].weight": 1},
        "more": 0,
    }


def test_thoughts_of_another_role_are_told_as_ignored() -> None:
    given = row(message("user", "q", reasoning_content="t"), ANSWERED)
    found = read(given, detect(json.loads(given)))
    assert found.notes == ((MESSAGE_KEY, "messages[].reasoning_content"),)


def test_exchange_says_of_its_answer_what_else_it_says() -> None:
    given = {
        "conversation": [{"human": "q", "assistant": "a", "loss": False}, {"human": "r", "assistant": "b", "x": 1}]
    }
    found = read(orjson.dumps(given), detect(given))
    assert found.messages[1] == ("assistant", "a", {"train": False})
    assert found.notes == ((MESSAGE_KEY, "messages[].x"),)


@pytest.mark.parametrize("where", ["metadata", "tools_json", "available_tools"])
def test_tools_are_found_where_datasets_put_them(where: str) -> None:
    tools = [{"name": "f", "description": "d"}]
    column: Any = {"tools": tools, "x": 1} if where == "metadata" else tools
    for value in (column, json.dumps(column)):
        given = row(ASKED, ANSWERED, **{where: value})
        found = read(given, detect(json.loads(given)))
        assert found.tools == b'[{"type":"function","function":{"name":"f","description":"d"}}]'
        assert found.notes == (((COLUMN, "metadata.x"),) if where == "metadata" else ())


def test_column_that_only_may_hold_tools_is_ignored_where_it_holds_others() -> None:
    given = row(ASKED, ANSWERED, available_tools=["f", "g"], metadata={"tools": 3})
    found = read(given, detect(json.loads(given)))
    assert (found.tools, found.rule) == (None, None)
    assert found.notes == ((COLUMN, "available_tools"), (COLUMN, "metadata"))


def test_names_have_a_bound_and_no_lone_surrogate() -> None:
    counts = NoteCounts()
    counts.add({(COLUMN, str(number)): 1 for number in range(MOST_NAMES + 3)})
    counts.add({(COLUMN, str(MOST_NAMES + 1)): 1, (COLUMN, "0"): 1})
    ignored = counts.summarize()["ignored"]
    assert len(ignored["columns"]) == MOST_NAMES
    assert next(iter(ignored["columns"].items())) == ("0", 2)
    assert ignored["more"] == 3
    assert shorten("\ud800" + "x" * 200).encode() == b"\\ud800" + b"x" * 79


def test_log_tells_of_ignored_keys_only_where_they_say_what_is_trained(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run(tmp_path, [row(ASKED, ANSWERED, source="s", train_on_inputs=False)], heldout_fraction=0)
    assert "; in 1 row 'train_on_inputs' is ignored" in caplog.text
    assert "source'" not in caplog.text
