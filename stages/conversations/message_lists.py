"""Lists of messages, and what stands around them in a row, as turns: what all layouts share. Pure functions."""

from typing import Any

from stages.conversations.content_blocks import read_blocks
from stages.conversations.dialects import (
    HISTORY,
    MESSAGE_KEYS,
    Row,
    Turn,
    is_list_of_messages,
    parse_list,
)
from stages.conversations.roles import role_of
from stages.conversations.row_rules import LAYOUT, NO_MESSAGES, Rejected

TURN_MARK = "<extra_id_1>"
"""Before the name of who speaks, in the prompts of HelpSteer 2 with several turns."""


def message_turns(messages: list[Any], role: str, content: str) -> list[Turn]:
    """A list of messages as turns. Raises Rejected."""
    turns = []
    for item in messages:
        if not isinstance(item, dict) or (role not in item and content not in item):
            raise Rejected(LAYOUT)
        value = item.get(content)
        if type(value) is list and value:
            turns += read_blocks(item, role, content)
        else:
            turns.append(Turn(item.get(role), value, item if len(item) > 2 or content not in item else None))  # noqa: PLR2004
    return turns


def side_turns(value: object, role: str) -> list[Turn]:
    """One side of a pair: a text is one turn, a list of messages (or such a list as JSON text) is several."""
    if role == "user" and isinstance(value, str) and TURN_MARK in value:
        return marked_turns(value)
    if is_written_chat(value):
        value = parse_list(value)
    if not isinstance(value, list) or not is_list_of_messages(value):
        return [Turn(role, value, None)]
    names = next((keys for keys in MESSAGE_KEYS if keys[0] in value[0] and keys[1] in value[0]), ("role", "content"))
    return message_turns(value, *names)


def marked_turns(text: str) -> list[Turn]:
    """The turns of a prompt in which each but the first begins with a mark, who speaks, and a line break."""
    first, *others = text.split(TURN_MARK)
    turns = [Turn("user", first.removesuffix("\n"), None)]
    for number, other in enumerate(others):
        name, _, said = other.partition("\n")
        turns.append(Turn(name, said.removesuffix("\n") if number + 1 < len(others) else said, None))
    return turns


def system_turns(row: Row, columns: tuple[str, ...]) -> list[Turn]:
    """The system turn of a column of its own; none where it is absent, null or empty (a .csv cannot say null)."""
    for column in columns:
        value = row.get(column)
        if value is not None and value != "":
            return [Turn("system", value, None)]
    return []


def history_turns(row: Row) -> list[Turn]:
    """The earlier turns of a `history` column: [[question, answer], ...], or a list of messages."""
    history = parse_list(row.get(HISTORY))
    if history is None or history in ("", []):
        return []
    if is_list_of_messages(history):
        return side_turns(history, "user")
    if not isinstance(history, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in history):  # noqa: PLR2004
        raise Rejected(LAYOUT)
    return [
        turn for question, answer in history for turn in (Turn("user", question, None), Turn("assistant", answer, None))
    ]


def messages_in(row: Row, column: str) -> list[Any]:
    """The list in `column`. Raises Rejected if there is none, or nothing in it."""
    if column not in row:
        raise Rejected(LAYOUT)
    messages = parse_list(row[column])
    if messages is None or messages == []:
        raise Rejected(NO_MESSAGES)
    if not isinstance(messages, list):
        raise Rejected(LAYOUT)
    return messages


def is_written_chat(value: object) -> bool:
    """Whether this is a list of messages as JSON text: each with a role that is known, so that no other list is taken for one."""
    if not isinstance(value, str) or value.lstrip()[:1] != "[" or value.rstrip()[-1:] != "]":
        return False
    messages = parse_list(value)
    return (
        isinstance(messages, list)
        and bool(messages)
        and all(
            isinstance(item, dict)
            and any(role_of(item.get(role)) and content in item for role, content in MESSAGE_KEYS)
            for item in messages
        )
    )
