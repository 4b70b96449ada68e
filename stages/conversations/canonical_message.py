"""A message in canonical form: what a conversation is hashed from, and what stands in data/messages; pure functions."""

from typing import Any

Message = tuple[Any, ...]
"""(role, content) or (role, content, Beside); the role one of contracts.messages.ROLES."""

Beside = dict[str, Any]
"""{"tool_calls": list of calls, "reasoning": text, "train": False}, each only where it is so, in this order."""


def make_message(role: str, text: str, calls: list[dict[str, Any]], reasoning: str | None, *, train: bool) -> Message:
    """The message of these parts."""
    beside: Beside = {"tool_calls": calls} if calls else {}
    if reasoning:
        beside["reasoning"] = reasoning
    if not train:
        beside["train"] = False
    return (role, text, beside) if beside else (role, text)


def is_plain(messages: list[Message]) -> bool:
    """Whether each message is a role and a text and nothing more."""
    return max(map(len, messages), default=0) <= 2  # noqa: PLR2004


def calls_of(message: Message) -> list[dict[str, Any]]:
    """The calls of a message."""
    found: list[dict[str, Any]] = message[2].get("tool_calls", []) if len(message) > 2 else []  # noqa: PLR2004
    return found


def reasoning_of(message: Message) -> str | None:
    """The thoughts of a message."""
    return message[2].get("reasoning") if len(message) > 2 else None  # noqa: PLR2004


def is_train(message: Message) -> bool:
    """Whether a message may bear loss."""
    return len(message) == 2 or message[2].get("train", True)  # noqa: PLR2004


def leave_out(message: Message) -> Message:
    """The same message as context: it bears no loss."""
    return make_message(message[0], message[1], calls_of(message), reasoning_of(message), train=False)


def text_with_thoughts(message: Message) -> str:
    """All that a message says: its thoughts, where it has some, and its text."""
    reasoning = reasoning_of(message)
    return f"{reasoning}\n{message[1]}" if reasoning else message[1]
