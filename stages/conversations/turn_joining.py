"""What `standardize.turns` does with conversations that do not take turns: neighbours of one role joined, an opening answer kept. Pure functions."""

from stages.conversations.canonical_message import (
    Message,
    calls_of,
    is_train,
    leave_out,
    make_message,
    reasoning_of,
)
from stages.conversations.row_notes import Note
from stages.conversations.row_rules import GREETING, MERGED

STRICT, MERGE_SAME_ROLE, GREETING_FIRST = "strict", "merge_same_role", "greeting_first"
BETWEEN = "\n\n"
"""What stands between two texts that were messages of their own."""


def join_turns(messages: list[Message], turns: str, notes: list[Note]) -> tuple[list[Message], int | None]:
    """(the messages as `standardize.turns` would have them, the place of a greeting that is allowed)."""
    if turns == MERGE_SAME_ROLE:
        joined = merge_same_role(messages)
        if len(joined) < len(messages):
            notes.append((MERGED, ""))
        return joined, None
    place = find_greeting(messages)
    if place is None:
        return messages, None
    notes.append((GREETING, ""))
    return keep_greeting(messages, place), place


def merge_same_role(messages: list[Message]) -> list[Message]:
    """The messages, neighbours of the user's or of the assistant's joined into one.

    They stay apart where one message could not say what they say: beside calls, with thoughts in the middle, or of another weight.
    """
    found: list[Message] = []
    for message in messages:
        if found and can_follow(found[-1], message):
            last = found[-1]
            text = f"{last[1]}{BETWEEN}{message[1]}"
            found[-1] = make_message(last[0], text, [], reasoning_of(last), train=is_train(last))
        else:
            found.append(message)
    return found


def can_follow(before: Message, message: Message) -> bool:
    """Whether a message can be joined to the one before it."""
    return (
        before[0] == message[0]
        and message[0] in ("user", "assistant")
        and not calls_of(before)
        and not calls_of(message)
        and not reasoning_of(message)
        and is_train(before) == is_train(message)
    )


def find_greeting(messages: list[Message]) -> int | None:
    """Where the assistant's opening message stands, if a question follows it; None if there is none."""
    place = 1 if messages and messages[0][0] == "system" else 0
    roles = [message[0] for message in messages[place : place + 2]]
    return place if roles == ["assistant", "user"] and not calls_of(messages[place]) else None


def keep_greeting(messages: list[Message], place: int) -> list[Message]:
    """The messages with the greeting as context: nobody asked for it, so there is no prompt that it would be learned from."""
    return [leave_out(message) if number == place else message for number, message in enumerate(messages)]
