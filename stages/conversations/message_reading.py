"""The turns of a row to messages in canonical form: roles resolved, thoughts and calls told from the text; pure functions."""

import math
from itertools import groupby

from stages.conversations.canonical_message import (
    Message,
    calls_of,
    is_train,
    make_message,
    reasoning_of,
)
from stages.conversations.dialects import Row, Turn
from stages.conversations.message_text import text_of
from stages.conversations.reasoning import (
    REASONING_KEYS,
    agree_on,
    may_hold_thoughts,
    read_beside,
    split_inline,
    split_off_thoughts,
)
from stages.conversations.roles import CALL, ROLES, role_of
from stages.conversations.row_notes import Note, note_unread
from stages.conversations.row_rules import (
    CONTENT_NOT_TEXT,
    EMPTY_CONTENT,
    NUMBERS_AS_TEXT,
    REASONING_ALONE,
    REASONING_DIFFERS,
    TOOL_CALL_UNREADABLE,
    UNKNOWN_ROLE,
    Rejected,
)
from stages.conversations.tool_calls import (
    CALL_KEYS,
    dump_canonical,
    read_calls,
    read_calls_beside,
    split_off_calls,
)
from stages.conversations.weights import DETAIL, LOSS_WEIGHTS, SWITCHES, WEIGHTS, check_other_role, is_trained

PLACE = "messages[]"
EVERYWHERE = frozenset({*CALL_KEYS, *SWITCHES, DETAIL})
"""Keys beside any message that are read, whatever its role."""
OF_ANSWERS = EVERYWHERE | {*REASONING_KEYS, *WEIGHTS}
OF_RESULTS = EVERYWHERE | {"tool_call_id"}


def read_messages(turns: list[Turn], keys: frozenset[str], notes: list[Note]) -> list[Message]:
    """Turns in canonical form: aliases of roles resolved, contents as they came (no trimming but of thoughts).

    Args:
        turns: as the row has them.
        keys: of a message, those that the dialect has read.
        notes: where it is noted which keys nothing reads.

    Raises:
        Rejected: what cannot be read, or has nothing in it.
    """
    found: list[Message] = []
    for role, content, beside in turns:
        canonical = ROLES.get(role) if type(role) is str else None
        if (
            beside is not None
            or canonical is None
            or canonical is CALL
            or type(content) is not str
            or (canonical == "assistant" and may_hold_thoughts(content))
        ):
            return read_other_messages(turns, keys, notes)
        add_text(found, canonical, content)
    return found


def read_other_messages(turns: list[Turn], keys: frozenset[str], notes: list[Note]) -> list[Message]:
    """The same of turns of which some have more than a role that is known and a text without thoughts."""
    found: list[Message] = []
    for role, content, beside in sort_tool_results(turns):
        add_message(found, role, content, beside or {}, keys, notes)
    if any(not calls_of(message) and reasoning_of(message) and not message[1] for message in found):
        raise Rejected(REASONING_ALONE)
    return found


def add_text(found: list[Message], role: str, text: str) -> None:
    """Add a message that is a role and a text. Raises Rejected."""
    if (text and not text.isspace()) or role == "tool":
        found.append((role, text))
    elif text or role != "system":
        raise Rejected(EMPTY_CONTENT)


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


def add_message(
    found: list[Message], role: object, content: object, beside: Row, keys: frozenset[str], notes: list[Note]
) -> None:
    """Add a message that has more than a role and a text. Raises Rejected.

    Calls that are messages of their own belong to the answer before them, so that parallel calls are one turn.
    """
    canonical = role_of(role)
    if canonical is None:
        raise Rejected(UNKNOWN_ROLE)
    note_beside(beside, canonical, keys, notes)
    if canonical == "system" and (content is None or content == ""):
        return  # datasets that have no system message for a row say so
    if canonical == "assistant":
        found.append(read_answer(content, beside, notes))
        return
    if canonical == CALL:
        add_calls(found, content, beside, notes)
        return
    if read_calls_beside(beside):
        raise Rejected(TOOL_CALL_UNREADABLE)
    check_other_role(beside)
    if canonical == "tool" and content is None:
        text = ""
    elif canonical == "tool" and isinstance(content, int | float):
        text = write_number(content)
    elif canonical == "tool" and is_value(content):
        text = dump_canonical(content, CONTENT_NOT_TEXT).decode()
    else:
        text = text_of(content, notes)
    if canonical != "tool" and is_blank(text):
        raise Rejected(EMPTY_CONTENT)
    found.append((canonical, text))


def note_beside(beside: Row, canonical: str, keys: frozenset[str], notes: list[Note]) -> None:
    """Note which keys of a message nothing reads."""
    if canonical in ("assistant", CALL):
        read = OF_ANSWERS | keys
    else:
        # a weight of 0 is what these have anyway
        read = (OF_RESULTS if canonical == "tool" else EVERYWHERE) | keys
        read |= {key for key in LOSS_WEIGHTS if not beside.get(key)}
    note_unread(beside, read, PLACE, notes)


def read_answer(content: object, beside: Row, notes: list[Note]) -> Message:
    """An assistant's message; a number, true or false is its text. Raises Rejected where nothing is in it.

    Thoughts without a text may stand before a call.
    """
    calls = read_calls_beside(beside, notes)
    said = read_beside(beside)
    length = len(content) if isinstance(content, str) else 0
    if isinstance(content, list):
        inside, content = split_off_calls(content, notes)
        calls += inside
        thoughts, content = split_off_thoughts(content, notes)
        said.append(thoughts)
    if isinstance(content, int | float):
        notes.append((NUMBERS_AS_TEXT, ""))
        text = write_number(content)
    elif content in (None, "", []) and (calls or any(said)):
        text = ""
    else:
        text = text_of(content, notes)
        length = length or len(text)
    if may_hold_thoughts(text):
        thoughts, text = split_inline(text)
        said.append(thoughts)
    reasoning = agree_on(said)
    if is_blank(text) and not calls:
        if not reasoning:
            raise Rejected(EMPTY_CONTENT)
        text = ""
    return make_message("assistant", text, calls, reasoning, train=is_trained(beside, length))


def add_calls(found: list[Message], content: object, beside: Row, notes: list[Note]) -> None:
    """Add a message that is nothing but calls to the answer before it, or as one. Raises Rejected."""
    train = is_trained(beside, len(content) if isinstance(content, str) else 0)
    calls, said, text = read_calls(content, notes), read_beside(beside), ""
    if read_calls_beside(beside):
        raise Rejected(TOOL_CALL_UNREADABLE)
    if found and found[-1][0] == "assistant" and is_train(found[-1]) == train:
        earlier = found.pop()
        calls, text = [*calls_of(earlier), *calls], earlier[1]
        if said and calls_of(earlier):
            raise Rejected(REASONING_DIFFERS)
        said.append(reasoning_of(earlier) or "")
    found.append(make_message("assistant", text, calls, agree_on(said), train=train))


def write_number(value: float) -> str:
    """A number, true or false as text. Raises Rejected for what no JSON can hold."""
    if isinstance(value, float) and not math.isfinite(value):
        raise Rejected(CONTENT_NOT_TEXT)
    return dump_canonical(value, CONTENT_NOT_TEXT).decode()


def is_value(content: object) -> bool:
    """Whether a tool's result is a JSON value and not a text."""
    return isinstance(content, dict) or (
        isinstance(content, list) and not any(isinstance(part, dict) and "type" in part for part in content)
    )


def is_blank(text: str) -> bool:
    """Whether nothing but white space is in a text."""
    return not text or text.isspace()
