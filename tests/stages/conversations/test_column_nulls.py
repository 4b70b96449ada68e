"""The same rows as .jsonl and as files of columns are the same conversations, though columns give each row the keys of all others."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from stages.conversations.column_nulls import prune, remove_nulls
from stages.dataset_files.reader import read_rows
from tests.stages.test_standardize import message, run


def tool(name: str, properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": schema | more}}


def talk(name: str, arguments: dict[str, Any], tools: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": name, "arguments": arguments}, "id": "c"}
    return {
        "messages": [
            message("user", f"call {name}"),
            message("assistant", "", tool_calls=[call]),
            message("tool", "done", tool_call_id="c"),
            message("assistant", "It is done."),
        ],
        "tools": tools,
        **more,
    }


CITY = tool("weather", {"city": {"type": "string", "enum": ["Oslo", "Rome"]}}, required=["city"])
ADD = tool("add", {"a": {"type": "number"}, "b": {"type": "number", "default": 0}})
ROWS = [
    talk("weather", {"city": "Oslo"}, [CITY]),
    talk("add", {"a": 2, "b": 3}, [ADD], chat_template_kwargs={"enable_thinking": False}),
    talk("now", {}, [tool("now", {}), CITY]),
    talk("find", {"place": {"city": "Rome", "kinds": []}}, [tool("find", {"place": {"type": "object"}})]),
    {"messages": [message("user", "Hi"), message("assistant", "Hello.")], "chat_template_kwargs": {"xml_tools": []}},
]


def read_records(path: Path) -> list[bytes]:
    return [record for _, record in read_rows(path, path.name)]


def write(folder: Path, ending: str) -> Path:
    path = folder / f"rows{ending}"
    names = dict.fromkeys(name for row in ROWS for name in row)
    table = pa.table({name: [row.get(name) for row in ROWS] for name in names})
    if ending == ".parquet":
        pq.write_table(table, path)
    elif ending == ".feather":
        pyarrow.feather.write_feather(table, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    return path


@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".feather"])
def test_rows_of_columns_are_the_conversations_of_their_lines(tmp_path: Path, ending: str) -> None:
    lines = [json.dumps(row).encode() for row in ROWS]
    by_line = run(tmp_path, lines, heldout_fraction=0, name="lines")
    path = write(tmp_path, ending)
    by_column = run(tmp_path, read_records(path), heldout_fraction=0, file=path.name)
    keys = ("row_id", "tools", "options", "messages")
    assert [[kept[key] for key in keys] for kept in by_column.kept] == [
        [kept[key] for key in keys] for kept in by_line.kept
    ]
    assert by_line.summary["nulls_removed"] == 0
    assert by_column.summary["nulls_removed"] == 5
    assert by_column.summary["ignored"] == by_line.summary["ignored"]


def test_null_in_lines_is_the_authors(tmp_path: Path) -> None:
    row = talk("add", {"a": 2, "b": None}, [ADD])
    (kept,) = run(tmp_path, [json.dumps(row).encode()], heldout_fraction=0, name="lines").kept
    assert '"b":null' in kept["messages"][1]["tool_calls"]
    (kept,) = run(
        tmp_path, [json.dumps(row, separators=(",", ":")).encode()], heldout_fraction=0, file="a.parquet"
    ).kept
    assert '"arguments":{"a":2}' in kept["messages"][1]["tool_calls"]


def test_null_in_json_text_of_a_column_is_the_authors(tmp_path: Path) -> None:
    row = talk("add", {}, [ADD])
    row["messages"][1]["tool_calls"][0]["function"]["arguments"] = '{"a": 2, "b": null}'
    result = run(tmp_path, [json.dumps(row, separators=(",", ":")).encode()], heldout_fraction=0, file="a.parquet")
    assert '"b":null' in result.kept[0]["messages"][1]["tool_calls"]
    assert result.summary["nulls_removed"] == 0


def test_rows_whose_own_keys_are_null_alone_lose_none(tmp_path: Path) -> None:
    row = {"messages": [message("user", "null", name=None), message("assistant", "a", tool_calls=None)], "tools": None}
    result = run(tmp_path, [json.dumps(row, separators=(",", ":")).encode()], heldout_fraction=0, file="a.parquet")
    assert result.summary["nulls_removed"] == 0
    assert len(result.kept) == 1


def test_nulls_are_taken_from_objects_and_left_in_lists() -> None:
    assert prune({"a": None, "b": [None, {"c": None}], "d": {"e": {"f": None}}}) == {"b": [None, {}], "d": {"e": {}}}
    row = {"messages": [{"name": None, "x": {"y": None}}], "other": {"z": None}, "tools": [{"strict": None}]}
    assert remove_nulls(row, {"messages"}, {"tools"}) == (
        {"messages": [{"name": None, "x": {}}], "other": {"z": None}, "tools": [{}]},
        True,
    )
