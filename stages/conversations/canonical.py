"""One record to one conversation in canonical form, with its id and its split; pure functions.

The id is the sha256 of the canonical JSON, cut to 32 hex characters. The canonical JSON is [[role, content], ...]; a message that has
more has a third element, {"tool_calls": [...]}, {"reasoning": ...} and/or {"train": false}; tools and the row's own options for the
chat template are one more last element, {"tools": [...], "options": {...}}.
"""

import hashlib
import json
import re
from itertools import groupby
from typing import Any, NamedTuple

import orjson

from stages.contracts.messages import ID_LENGTH
from stages.conversations.dialects import Dialect, Row, Turn
from stages.conversations.message_text import has_media_column, text_of
from stages.conversations.roles import CALL, ROLES, role_of
from stages.conversations.row_rules import (
    CONTENT_NOT_TEXT,
    DUPLICATE_KEY,
    EMPTY_CONTENT,
    INVALID_JSON,
    INVALID_UNICODE,
    LAYOUT,
    MEDIA,
    NOT_AN_OBJECT,
    NOTHING_TO_TRAIN,
    NUL_CHARACTER,
    OPTIONS_UNREADABLE,
    TOO_LARGE,
    TOO_MANY_MESSAGES,
    TOOL_CALL_UNREADABLE,
    UNKNOWN_ROLE,
    WEIGHT_NOT_0_OR_1,
    Rejected,
)
from stages.conversations.tool_calls import (
    TOOL_COLUMNS,
    dump_canonical,
    read_calls,
    read_calls_beside,
    read_tools,
    split_off_calls,
)
from stages.conversations.tool_schemas import shows_tools
from stages.conversations.turn_order import find_broken_turn_rule

Message = tuple[Any, ...]
"""(role, content) or (role, content, Beside); the role one of contracts.messages.ROLES."""

Beside = dict[str, Any]
"""{"tool_calls": list of calls, "reasoning": text, "train": False}, each only where it is so."""

OPTIONS_COLUMN = "chat_template_kwargs"
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
WEIGHTS = ("weight", "loss_weight", "train")
NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
"""A NUL character as JSON writes it (behind an odd number of backslashes it is text)."""


class Conversation(NamedTuple):
    """A record in canonical form. Without messages it has none."""

    row_id: str
    messages: list[Message]
    tools: bytes | None
    """Canonical JSON."""
    options: bytes | None
    """What the row asks of the chat template: canonical JSON, an object."""
    rule: str | None
    """The first rule that it breaks."""


class NotANumber:
    """What NaN and the infinities are read as: nothing that any column of a conversation can hold."""


def read_conversation(
    record: bytes, dialect: Dialect | None, *, may_repeat_keys: bool, max_messages: int | None, max_chars: int | None
) -> Conversation:
    """The record as a conversation.

    Args:
        record: one row of data/raw.
        dialect: how it is read; None where no row of its source is an object.
        may_repeat_keys: whether the record comes from a text in which a key can stand twice.
        max_messages: as in standardize's params.
        max_chars: the same.
    """
    try:
        row = parse_record(record)
        messages, tools, options, canonical = canonical_form(row, dialect)
    except Rejected as rejected:
        return Conversation(id_of(record), [], None, None, rejected.rule)
    rule = find_broken_rule(messages, tools, canonical, max_messages, max_chars)
    if (
        rule is None
        and may_repeat_keys
        and seems_to_repeat_keys(record, row)
        and differs_by_reader(record, dialect, canonical)
    ):
        rule = DUPLICATE_KEY
    return Conversation(id_of(canonical), messages, tools, options, rule)


def parse_record(record: bytes) -> Row:
    """The record as an object. Raises Rejected.

    orjson is strict; what it refuses, the standard library reads again, since NaN and lone surrogates are common in columns
    that nobody trains on.
    """
    try:
        value = orjson.loads(record)
    except orjson.JSONDecodeError:
        try:
            value = json.loads(record.decode("utf-8"), parse_constant=lambda _: NotANumber())
        except UnicodeDecodeError as error:
            raise Rejected(INVALID_UNICODE) from error
        except (ValueError, RecursionError) as error:
            raise Rejected(INVALID_JSON) from error
    if not isinstance(value, dict):
        raise Rejected(NOT_AN_OBJECT)
    return value


def canonical_form(row: Row, dialect: Dialect | None) -> tuple[list[Message], bytes | None, bytes | None, bytes]:
    """(messages, tools, options, canonical JSON) of a row. Raises Rejected where it has none."""
    if dialect is None:
        raise Rejected(LAYOUT)
    if not dialect.named and has_media_column(row):
        raise Rejected(MEDIA)
    messages = read_messages(dialect.turns(row))
    tools = (
        read_tools(dialect.tools(row))
        if dialect.tools
        else next((found for name in TOOL_COLUMNS if name in row and (found := read_tools(row[name]))), None)
    )
    if tools and messages and messages[0][0] == "system" and shows_tools(messages[0][1], orjson.loads(tools)):
        tools = None
    options = read_options(row)
    return messages, tools, options, canonical_json(messages, tools, options)


def read_options(row: Row) -> bytes | None:
    """What the row asks of the chat template, as canonical JSON; None where it asks nothing. Raises Rejected."""
    value = row.get(OPTIONS_COLUMN)
    if value is None or value in ("", {}):
        return None
    if not isinstance(value, dict):
        raise Rejected(OPTIONS_UNREADABLE)
    return dump_canonical(value, OPTIONS_UNREADABLE)


def read_messages(turns: list[Turn]) -> list[Message]:
    """Turns in canonical form: aliases of roles resolved, contents as they came (no trimming). Raises Rejected."""
    found: list[Message] = []
    for role, content, beside in sort_tool_results(turns):
        canonical = ROLES.get(role) if type(role) is str else None
        if beside is None and canonical is not None and canonical is not CALL and type(content) is str:
            if content and not content.isspace():
                found.append((canonical, content))
            elif content or canonical != "system":
                raise Rejected(EMPTY_CONTENT)
        else:
            add_message(found, role, content, beside or {})
    return found


def sort_tool_results(turns: list[Turn]) -> list[Turn]:
    """The same turns, the results of parallel calls in the order of the calls that their `tool_call_id` names.

    No message keeps the id of a call: from here on, a result belongs to the call that stands at its place.
    """
    if not any(beside and "tool_call_id" in beside for _, _, beside in turns):
        return turns
    found: list[Turn] = []
    places: dict[str, int] = {}
    for is_result, group in groupby(turns, key=lambda turn: bool(turn[2] and "tool_call_id" in turn[2])):
        part = list(group)
        if is_result:
            part.sort(key=lambda turn: places.get(str((turn[2] or {})["tool_call_id"]), len(places)))
        elif isinstance(calls := (part[-1][2] or {}).get("tool_calls"), list):
            places = {str(call.get("id")): place for place, call in enumerate(calls) if isinstance(call, dict)}
        found += part
    return found


def add_message(found: list[Message], role: object, content: object, beside: Row) -> None:
    """Add a message that has more than a role and a text. Raises Rejected.

    Calls that are messages of their own belong to the answer before them, so that parallel calls are one turn.
    """
    canonical = role_of(role)
    if canonical is None:
        raise Rejected(UNKNOWN_ROLE)
    if canonical == "system" and (content is None or content == ""):
        return  # datasets that have no system message for a row say so
    calls = read_calls_beside(beside)
    if canonical == "assistant" and isinstance(content, list):
        inside, content = split_off_calls(content)
        calls += inside
    if calls and canonical != "assistant":
        raise Rejected(TOOL_CALL_UNREADABLE)
    train = canonical not in ("assistant", CALL) or is_trained(beside)
    if canonical == CALL:
        calls, text, canonical = read_calls(content), "", "assistant"
        if found and found[-1][0] == canonical and is_train(found[-1]) == train:
            earlier = found.pop()
            calls, text = [*calls_of(earlier), *calls], earlier[1]
    elif calls and (content is None or content == []):
        text = ""
    elif is_value(canonical, content):
        text = dump_canonical(content, CONTENT_NOT_TEXT).decode()
    else:
        text = text_of(content)
    if not calls and (not text or text.isspace()):
        raise Rejected(EMPTY_CONTENT)
    reasoning = read_reasoning(beside) if canonical == "assistant" else None
    more: Beside = (
        ({"tool_calls": calls} if calls else {})
        | ({"reasoning": reasoning} if reasoning else {})
        | ({} if train else {"train": False})
    )
    found.append((canonical, text, more) if more else (canonical, text))


def read_reasoning(beside: Row) -> str | None:
    """The thoughts that stand beside an answer; None where there are none. Raises Rejected for what is no text."""
    found = [value for key in REASONING_KEYS if (value := beside.get(key)) is not None]
    if not all(isinstance(value, str) for value in found):
        raise Rejected(CONTENT_NOT_TEXT)
    return next((text for value in found if (text := str(value).strip())), None)


def is_value(role: str, content: object) -> bool:
    """Whether a tool's result is a JSON value and not a text, or an answer a number, true or false."""
    if isinstance(content, int | float):
        return role in ("assistant", "tool")
    is_structure = isinstance(content, dict) or (
        isinstance(content, list) and not any(isinstance(part, dict) and "type" in part for part in content)
    )
    return role == "tool" and is_structure


def is_trained(beside: Row) -> bool:
    """Whether an answer bears loss, by the weight beside it. Raises Rejected for a weight that is neither 0 nor 1, or two that disagree."""
    weights = [weight for key in WEIGHTS if (weight := beside.get(key)) is not None]
    if not all(isinstance(weight, int | float) and weight in (0, 1) and weight == weights[0] for weight in weights):
        raise Rejected(WEIGHT_NOT_0_OR_1)
    return not weights or bool(weights[0])


def calls_of(message: Message) -> list[dict[str, Any]]:
    """The calls of a canonical message."""
    found: list[dict[str, Any]] = message[2].get("tool_calls", []) if len(message) > 2 else []  # noqa: PLR2004
    return found


def reasoning_of(message: Message) -> str | None:
    """The thoughts of a canonical message."""
    return message[2].get("reasoning") if len(message) > 2 else None  # noqa: PLR2004


def is_train(message: Message) -> bool:
    """Whether a canonical message may bear loss."""
    return len(message) == 2 or message[2].get("train", True)  # noqa: PLR2004


def canonical_json(messages: list[Message], tools: bytes | None = None, options: bytes | None = None) -> bytes:
    """The canonical JSON: compact, in UTF-8. Raises Rejected where a text holds a lone surrogate, which no tokenizer can carry."""
    beside = {name: orjson.Fragment(value) for name, value in (("tools", tools), ("options", options)) if value}
    whole = [*messages, beside] if beside else messages
    return dump_canonical(whole, TOOL_CALL_UNREADABLE)


def find_broken_rule(
    messages: list[Message], tools: bytes | None, canonical: bytes, max_messages: int | None, max_chars: int | None
) -> str | None:
    """The first rule that a conversation breaks, or None."""
    if b"\\u0000" in canonical and NUL.search(canonical):
        return NUL_CHARACTER
    kinds = tuple([CALL if len(message) > 2 and "tool_calls" in message[2] else message[0] for message in messages])  # noqa: PLR2004
    rule = find_broken_turn_rule(kinds)
    if rule is not None:
        return rule
    if not any(message[0] == "assistant" and is_train(message) for message in messages):
        return NOTHING_TO_TRAIN
    if max_messages is not None and len(messages) > max_messages:
        return TOO_MANY_MESSAGES
    # no text is longer than its JSON
    if max_chars is not None and len(canonical) > max_chars and count_characters(messages, tools) > max_chars:
        return TOO_LARGE
    return None


def count_characters(messages: list[Message], tools: bytes | None) -> int:
    """Characters of all messages' texts, calls and tools together."""
    calls = sum(len(orjson.dumps(calls_of(message)).decode()) for message in messages if calls_of(message))
    return sum(len(message[1]) for message in messages) + calls + len((tools or b"").decode())


def seems_to_repeat_keys(record: bytes, row: Row) -> bool:
    """A cheap look at whether a key may stand twice in an object: then fewer keys were read than are written (each with a quote and a colon)."""
    keys, left = 0, [row]
    while left:
        value: Any = left.pop()
        if type(value) is dict:
            keys += len(value)
            value = value.values()
        left += [inner for inner in value if type(inner) in (dict, list)]
    written = record.count(b'":') + record.count(b'" :')
    return written != keys and written - record.count(b'\\":') - record.count(b'\\" :') != keys


def differs_by_reader(record: bytes, dialect: Dialect | None, canonical: bytes) -> bool:
    """Whether a reader that keeps the first of two equal keys reads another conversation than one that keeps the last."""
    try:
        row = json.loads(record, object_pairs_hook=keep_first_values, parse_constant=lambda _: NotANumber())
        return canonical_form(row, dialect)[3] != canonical
    except (ValueError, RecursionError, Rejected):
        return True


def keep_first_values(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object with the first value of each key."""
    found: dict[str, object] = {}
    for key, value in pairs:
        found.setdefault(key, value)
    return found


def id_of(canonical: bytes) -> str:
    """The row id: 32 hex characters of the sha256."""
    return hashlib.sha256(canonical).hexdigest()[:ID_LENGTH]


def split_of(row_id: str, heldout_fraction: float) -> str:
    """The split by the id's first 64 bits, read as a number between 0 and 1."""
    return "heldout" if int(row_id[:16], 16) < heldout_fraction * 2**64 else "train"
