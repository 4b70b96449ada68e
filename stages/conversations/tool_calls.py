"""Tool calls and lists of tools, in any dialect, as canonical JSON; pure functions.

Canonical: compact, keys in the order of the source. A call is {"type": "function", "function": {"name", "arguments"}, "id" where it
had one}, its arguments an object (the dialects write them as JSON text, too); a tool is what `apply_chat_template(tools=...)` takes,
{"type": "function", "function": {"name", ...}}.
"""

import json
from collections.abc import Mapping
from itertools import compress
from typing import Any

import orjson

from stages.conversations.message_text import text_of
from stages.conversations.row_notes import COLUMN, Note, is_something, list_unread, note_unread, shorten
from stages.conversations.row_rules import (
    DUPLICATE_KEY,
    HANDED_ON,
    INVALID_JSON,
    INVALID_UNICODE,
    TOOL_CALL_UNREADABLE,
    TOOLS_UNREADABLE,
    Rejected,
)
from stages.conversations.tool_schemas import DECLARATIONS, flatten_tools, spell_out_schema

TOOL_COLUMNS = ("tools", "functions", "tools_json")
"""Columns that hold tools and nothing else."""
OTHER_TOOL_COLUMNS = (
    *("available_tools", "tool_definitions", "tool_schemas", "tool_list"),
    *("available_functions", "function_definitions", "function_description", "function_descriptions"),
)
"""Columns that hold tools in some datasets, and names or prose in others: what cannot be read as tools is none."""
METADATA = "metadata"
"""A column that may hold tools under one of the names above."""
ALL_TOOL_COLUMNS = frozenset({*TOOL_COLUMNS, *OTHER_TOOL_COLUMNS, METADATA})
NONE: frozenset[str] = frozenset()

CALL_KEYS = ("tool_calls", "function_call")
CALL_PLACE = "messages[].tool_calls[]"
CALL_PART_KEYS = frozenset({"type", "value"})
TOOL_KEYS = frozenset({"type", "function"})
DECLARATION_KEYS = frozenset(DECLARATIONS)
FUNCTION_KEYS = frozenset({"name", "description", "parameters", "strict", "return", "returns"})


def find_tools(row: Mapping[str, object], notes: list[Note]) -> tuple[bytes | None, frozenset[str]]:
    """(the tools of a row as canonical JSON or None, the columns that they were read from).

    Raises Rejected for a column of tools that holds something else.
    """
    if ALL_TOOL_COLUMNS.isdisjoint(row):
        return None, NONE
    for name in TOOL_COLUMNS:
        if name in row and (found := read_tools(row[name], notes)):
            return found, frozenset({name})
    for name in OTHER_TOOL_COLUMNS:
        if name in row and (found := read_tools_if_any(row[name], notes)):
            return found, frozenset({name})
    found = find_tools_in(row[METADATA], notes) if METADATA in row else None
    return found, frozenset({METADATA}) if found else NONE


def find_tools_in(metadata: object, notes: list[Note]) -> bytes | None:
    """The tools that stand in a row's metadata, an object or one as JSON text; None if there are none."""
    if isinstance(metadata, str) and "tools" in metadata and metadata.lstrip()[:1] == "{":
        try:
            metadata = orjson.loads(metadata)
        except orjson.JSONDecodeError:
            return None
    if not isinstance(metadata, dict):
        return None
    for name in (*TOOL_COLUMNS, *OTHER_TOOL_COLUMNS):
        if name in metadata and (found := read_tools_if_any(metadata[name], notes)):
            others = list_unread(tuple(metadata), frozenset({name}))
            notes += [(COLUMN, f"{METADATA}.{shorten(key)}") for key in others if is_something(metadata[key])]
            return found
    return None


def read_tools_if_any(value: object, notes: list[Note]) -> bytes | None:
    """Tools as canonical JSON; None where the value holds something else."""
    try:
        return read_tools(value, notes)
    except Rejected:
        return None


def read_tools(value: object, notes: list[Note] | None = None) -> bytes | None:
    """The list of tools as canonical JSON; None where there is none (null, an empty text, an empty list).

    Args:
        value: a list of tools, one tool, or either as JSON text; each with its `function` inside or bare.
        notes: where it is noted which unknown keys of them the chat template gets.

    Raises:
        Rejected: tools_unreadable, invalid_unicode.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str):
        value = parse_text(value, TOOLS_UNREADABLE)
    given = value if isinstance(value, list) else [value]
    found = flatten_tools(given)
    try:
        tools = [spell_out_schema(read_tool(each)) for each in found]
    except RecursionError as error:
        raise Rejected(TOOLS_UNREADABLE) from error
    if notes is not None:
        for tool in tools:
            note_handed_on(tool, notes)
        for wrapper in given:
            if isinstance(wrapper, dict) and not DECLARATION_KEYS.isdisjoint(wrapper):
                note_unread(wrapper, DECLARATION_KEYS, "tools[]", notes)
    return dump_canonical(tools, TOOLS_UNREADABLE) if tools else None


def note_handed_on(tool: Mapping[str, Any], notes: list[Note]) -> None:
    """Note which keys of a tool the format has not: the chat template gets them and may or may not write them."""
    for place, item, known in (("tools[]", tool, TOOL_KEYS), ("tools[].function", tool["function"], FUNCTION_KEYS)):
        notes += [(HANDED_ON, f"{place}.{shorten(key)}") for key in list_unread(tuple(item), known)]


def read_tool(value: object) -> dict[str, Any]:
    """One tool with its function inside. Raises Rejected."""
    if isinstance(value, str):
        value = parse_text(value, TOOLS_UNREADABLE)
    if not isinstance(value, dict):
        raise Rejected(TOOLS_UNREADABLE)
    function = value.get("function")
    if function is None:
        function = {
            key: inner for key, inner in value.items() if (key, inner) != ("type", "function") and key != "function"
        }
        value = {"type": "function", "function": function}
    elif value.get("type") is None:
        value = {"type": "function", **{key: inner for key, inner in value.items() if key != "type"}}
    if not isinstance(function, dict) or not is_name(function.get("name")):
        raise Rejected(TOOLS_UNREADABLE)
    return value


def read_calls_beside(message: Mapping[str, object], notes: list[Note] | None = None) -> list[dict[str, Any]]:
    """The calls that stand beside a message's content: `tool_calls`, or the older `function_call`; [] if there are none.

    Raises Rejected if they cannot be read, or if both are there.
    """
    found = [value for key in CALL_KEYS if (value := message.get(key)) not in (None, "", [], "[]")]
    if len(found) > 1:
        raise Rejected(TOOL_CALL_UNREADABLE)
    return read_calls(found[0], notes) if found else []


def split_off_calls(content: list[Any], notes: list[Note] | None = None) -> tuple[list[dict[str, Any]], list[Any]]:
    """The calls that typed parts of a content hold, and the other parts. Raises Rejected."""
    is_call = [isinstance(part, dict) and part.get("type") == "tool_call" for part in content]
    calls = [read_call(part.get("value"), notes) for part in compress(content, is_call)]
    if notes is not None:
        for part in compress(content, is_call):
            note_unread(part, CALL_PART_KEYS, "messages[].content[]", notes)
    return calls, [part for part, called in zip(content, is_call, strict=True) if not called]


def read_calls(value: object, notes: list[Note] | None = None) -> list[dict[str, Any]]:
    """The calls in a value: a list of calls, one call, or either as JSON text or as text parts. Raises Rejected."""
    if isinstance(value, list) and value and isinstance(value[0], dict) and value[0].get("type") == "text":
        value = text_of(value)
    if isinstance(value, str):
        value = parse_text(value, TOOL_CALL_UNREADABLE)
    found = value if isinstance(value, list) else [value]
    if not found:
        raise Rejected(TOOL_CALL_UNREADABLE)
    return [read_call(each, notes) for each in found]


def read_call(value: object, notes: list[Note] | None = None) -> dict[str, Any]:
    """One call. Raises Rejected unless it is a name with an object of arguments."""
    if isinstance(value, str):
        value = parse_text(value, TOOL_CALL_UNREADABLE)
    if not isinstance(value, dict):
        raise Rejected(TOOL_CALL_UNREADABLE)
    function = value.get("function")
    if not isinstance(function, dict):
        function = value
    name = function.get("name")
    key = "arguments" if "arguments" in function else "parameters"
    arguments = function.get(key)
    if isinstance(arguments, str):
        arguments = parse_text(arguments, TOOL_CALL_UNREADABLE) if arguments.strip() else {}
    elif arguments is None:
        arguments = {}
    if not is_name(name) or not isinstance(arguments, dict):
        raise Rejected(TOOL_CALL_UNREADABLE)
    if notes is not None:
        note_call(value, function, key, notes)
    canonical: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": arguments}}
    identity = value.get("id")
    if identity is not None and identity != "":
        if not isinstance(identity, str):
            raise Rejected(TOOL_CALL_UNREADABLE)
        canonical["id"] = identity
    return canonical


def note_call(call: Mapping[str, object], function: Mapping[str, object], key: str, notes: list[Note]) -> None:
    """Note which keys of a call nothing reads; `key`: where its arguments stand."""
    read = frozenset({"name", key})
    if function is call:
        note_unread(call, read | {"type", "id"}, CALL_PLACE, notes)
    else:
        note_unread(call, frozenset({"type", "id", "function"}), CALL_PLACE, notes)
        note_unread(function, read, f"{CALL_PLACE}.function", notes)


def is_name(value: object) -> bool:
    """Whether this can be a function's name."""
    return isinstance(value, str) and bool(value.strip())


def parse_text(text: str, rule: str) -> object:
    """JSON that stands in a text, numbers as they are written. Raises Rejected with the rule for what is no JSON, or has a key twice."""
    try:
        return json.loads(text, object_pairs_hook=refuse_repeated_keys, parse_constant=refuse_constant)
    except Rejected:
        raise Rejected(rule) from None
    except (ValueError, RecursionError) as error:
        raise Rejected(rule) from error


def refuse_repeated_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object whose keys differ. Raises Rejected."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Rejected(DUPLICATE_KEY)
    return found


def refuse_constant(_: str) -> object:
    """NaN and the infinities, which no JSON has."""
    raise Rejected(INVALID_JSON)


def dump_canonical(value: object, rule: str) -> bytes:
    """Canonical JSON. Raises Rejected: invalid_unicode, or the rule where JSON has no word for it (nested too deep, a huge number)."""
    try:
        return orjson.dumps(value)
    except TypeError as error:
        raise Rejected(INVALID_UNICODE if "surrogate" in str(error) else rule) from error
