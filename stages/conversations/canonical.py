"""One record to one conversation in canonical form, with its id and its split; pure functions.

The id is the sha256 of the canonical JSON, cut to 32 hex characters. The canonical JSON is [[role, content], ...]; a message that has
more has a third element, {"tool_calls": [...]}, {"reasoning": ...} and/or {"train": false}; tools and the row's own options for the
chat template are one more last element, {"tools": [...], "options": {...}}.
"""

import hashlib
import json
import re
from typing import NamedTuple

import orjson

from stages.contracts.messages import ID_LENGTH
from stages.conversations.canonical_message import Message, calls_of, is_plain, is_train, reasoning_of
from stages.conversations.column_nulls import remove_nulls
from stages.conversations.dialects import SYSTEM_COLUMNS, Dialect, Row
from stages.conversations.message_reading import read_messages
from stages.conversations.message_text import has_media_column
from stages.conversations.repeated_keys import keep_first_values, seems_to_repeat_keys
from stages.conversations.roles import CALL
from stages.conversations.row_notes import COLUMN, OF_EVERY_LAYOUT, OPTIONS, Note, note_columns, shorten
from stages.conversations.row_rules import (
    DUPLICATE_KEY,
    HANDED_ON,
    INVALID_JSON,
    INVALID_UNICODE,
    LAYOUT,
    MEDIA,
    NOT_AN_OBJECT,
    NOTHING_TO_TRAIN,
    NUL_CHARACTER,
    NULLS_REMOVED,
    OPTIONS_UNREADABLE,
    TOO_LARGE,
    TOO_MANY_MESSAGES,
    TOOL_CALL_UNREADABLE,
    TOOL_NOT_SHOWN,
    TOOLS_NOT_SHOWN,
    Rejected,
)
from stages.conversations.shown_tools import leave_out_unshown, may_call_in_text
from stages.conversations.tool_calls import (
    ALL_TOOL_COLUMNS,
    NONE,
    dump_canonical,
    find_tools,
    parse_text,
    read_tools,
)
from stages.conversations.tool_schemas import shows_tools
from stages.conversations.turn_joining import STRICT, join_turns
from stages.conversations.turn_order import find_broken_turn_rule

SECOND_SYSTEM = SYSTEM_COLUMNS[1]
WHOLE_COLUMNS = ALL_TOOL_COLUMNS | OF_EVERY_LAYOUT
"""Columns all of whose keys are a tool's, or an option's."""
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
    notes: tuple[Note, ...]
    """What is told of the row; nothing of one that breaks a rule."""
    rule: str | None
    """The first rule that it breaks."""


class CanonicalForm(NamedTuple):
    """What a row says, in the form that its id is hashed from."""

    messages: list[Message]
    plain: bool
    """Whether each of them is a role and a text and nothing more."""
    tools: bytes | None
    options: bytes | None
    greeting: int | None
    """Where the assistant's opening message stands, if it is allowed."""
    canonical: bytes
    """The canonical JSON."""


class NotANumber:
    """What NaN and the infinities are read as: nothing that any column of a conversation can hold."""


def read_conversation(
    record: bytes,
    dialect: Dialect | None,
    *,
    may_repeat_keys: bool,
    columnar: bool,
    turns: str,
    max_messages: int | None,
    max_chars: int | None,
) -> Conversation:
    """The record as a conversation.

    Args:
        record: one row of data/raw.
        dialect: how it is read; None where no row of its source is an object.
        may_repeat_keys: whether the record comes from a text in which a key can stand twice.
        columnar: whether it comes from a file of columns, which puts nulls into nested values.
        turns: as in standardize's params.
        max_messages: the same.
        max_chars: the same.
    """
    notes: list[Note] = []
    try:
        row = parse_record(record)
        if columnar and dialect and b":null" in record:
            row = clean_row(row, dialect, notes)
        form = read_form(row, dialect, turns, notes)
    except Rejected as rejected:
        return Conversation(id_of(record), [], None, None, (), rejected.rule)
    rule = find_broken_rule(form, max_messages, max_chars)
    if (
        rule is None
        and may_repeat_keys
        and seems_to_repeat_keys(record, row)
        and differs_by_reader(record, dialect, turns, form.canonical)
    ):
        rule = DUPLICATE_KEY
    if rule == NOTHING_TO_TRAIN and (TOOLS_NOT_SHOWN, "") in notes:
        rule = TOOL_NOT_SHOWN
    told = () if rule else tuple(dict.fromkeys(notes)) if notes else ()
    return Conversation(id_of(form.canonical), form.messages, form.tools, form.options, told, rule)


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


def clean_row(row: Row, dialect: Dialect, notes: list[Note]) -> Row:
    """A row of a file of columns without the nulls that its format put in."""
    cleaned, found = remove_nulls(row, dialect.columns - WHOLE_COLUMNS, WHOLE_COLUMNS)
    if found:
        notes.append((NULLS_REMOVED, ""))
    return cleaned


def read_form(row: Row, dialect: Dialect | None, turns: str, notes: list[Note]) -> CanonicalForm:
    """A row in canonical form; what is to be told of it is added to `notes`. Raises Rejected where it has none."""
    if dialect is None:
        raise Rejected(LAYOUT)
    if not dialect.named and has_media_column(row):
        raise Rejected(MEDIA)
    messages = read_messages(dialect.turns(row), dialect.keys, notes)
    greeting = None
    if turns != STRICT:
        messages, greeting = join_turns(messages, turns, notes)
    defined, columns = (read_tools(dialect.tools(row), notes), NONE) if dialect.tools else find_tools(row, notes)
    tools = defined
    if tools and messages and messages[0][0] == "system" and shows_tools(messages[0][1], orjson.loads(tools)):
        tools = None
    options = read_options(row, notes)
    note_columns(row, dialect.columns, columns, notes)
    if SECOND_SYSTEM in row:
        note_second_system(row, dialect, notes)
    canonical = canonical_json(messages, tools, options)
    plain = is_plain(messages)
    if not plain or may_call_in_text(canonical):
        trained = leave_out_unshown(messages, defined, options)
        if trained != messages:
            notes.append((TOOLS_NOT_SHOWN, ""))
            messages, canonical = trained, canonical_json(trained, tools, options)
            plain = is_plain(messages)
    return CanonicalForm(messages, plain, tools, options, greeting, canonical)


def note_second_system(row: Row, dialect: Dialect, notes: list[Note]) -> None:
    """Note the second column for a system message where the first has already said one."""
    first = row.get(SYSTEM_COLUMNS[0])
    if {*SYSTEM_COLUMNS} <= dialect.columns and first and row[SECOND_SYSTEM] not in (None, "", first):
        notes.append((COLUMN, SECOND_SYSTEM))


def canonical_form(row: Row, dialect: Dialect | None) -> tuple[list[Message], bytes | None, bytes | None]:
    """(messages, tools, options) of a row that takes turns. Raises Rejected where it has none."""
    form = read_form(row, dialect, STRICT, [])
    return form.messages, form.tools, form.options


def read_options(row: Row, notes: list[Note]) -> bytes | None:
    """What the row asks of the chat template, as canonical JSON; None where it asks nothing. Raises Rejected."""
    value = row.get(OPTIONS)
    if isinstance(value, str) and value:
        value = parse_text(value, OPTIONS_UNREADABLE)
    if value is None or value in ("", {}):
        return None
    if not isinstance(value, dict):
        raise Rejected(OPTIONS_UNREADABLE)
    notes += [(HANDED_ON, f"{OPTIONS}.{shorten(key)}") for key in value]
    return dump_canonical(value, OPTIONS_UNREADABLE)


def canonical_json(messages: list[Message], tools: bytes | None = None, options: bytes | None = None) -> bytes:
    """The canonical JSON: compact, in UTF-8. Raises Rejected where a text holds a lone surrogate, which no tokenizer can carry."""
    beside = {name: orjson.Fragment(value) for name, value in (("tools", tools), ("options", options)) if value}
    whole = [*messages, beside] if beside else messages
    return dump_canonical(whole, TOOL_CALL_UNREADABLE)


def find_broken_rule(form: CanonicalForm, max_messages: int | None, max_chars: int | None) -> str | None:
    """The first rule that a conversation breaks, or None."""
    messages = form.messages
    if holds_nul(form):
        return NUL_CHARACTER
    kinds = tuple([message[0] for message in messages] if form.plain else map(kind_of, messages))
    rule = find_broken_turn_rule(kinds, form.greeting)
    if rule is not None:
        return rule
    # plain ones that take turns end with an answer, and each bears loss
    if not form.plain and not any(message[0] == "assistant" and is_train(message) for message in messages):
        return NOTHING_TO_TRAIN
    if max_messages is not None and len(messages) > max_messages:
        return TOO_MANY_MESSAGES
    # no text is longer than its JSON
    if max_chars is not None and len(form.canonical) > max_chars and count_characters(messages, form.tools) > max_chars:
        return TOO_LARGE
    return None


def kind_of(message: Message) -> str:
    """A message's role, or CALL where it calls tools."""
    return CALL if len(message) > 2 and "tool_calls" in message[2] else str(message[0])  # noqa: PLR2004


def holds_nul(form: CanonicalForm) -> bool:
    """Whether a NUL character stands in a conversation."""
    if form.plain and form.tools is None and form.options is None:
        # one sign is found many times as fast as the six that JSON writes for it
        return any("\0" in message[1] for message in form.messages)
    return b"\\u0000" in form.canonical and NUL.search(form.canonical) is not None


def count_characters(messages: list[Message], tools: bytes | None) -> int:
    """Characters of all messages' texts, thoughts, calls and tools together."""
    calls = sum(len(orjson.dumps(calls_of(message)).decode()) for message in messages if calls_of(message))
    texts = sum(len(message[1]) + len(reasoning_of(message) or "") for message in messages)
    return texts + calls + len((tools or b"").decode())


def differs_by_reader(record: bytes, dialect: Dialect | None, turns: str, canonical: bytes) -> bool:
    """Whether a reader that keeps the first of two equal keys reads another conversation than one that keeps the last."""
    try:
        row = json.loads(record, object_pairs_hook=keep_first_values, parse_constant=lambda _: NotANumber())
        return read_form(row, dialect, turns, []).canonical != canonical
    except (ValueError, RecursionError, Rejected):
        return True


def id_of(canonical: bytes) -> str:
    """The row id: 32 hex characters of the sha256."""
    return hashlib.sha256(canonical).hexdigest()[:ID_LENGTH]


def split_of(row_id: str, heldout_fraction: float) -> str:
    """The split by the id's first 64 bits, read as a number between 0 and 1."""
    return "heldout" if int(row_id[:16], 16) < heldout_fraction * 2**64 else "train"
