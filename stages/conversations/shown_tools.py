"""Calls to tools that the conversation never shows: an answer that calls one is not trained, since nobody could know of it. Pure functions."""

import re
from functools import lru_cache

import orjson

from stages.conversations.canonical_message import Message, calls_of, is_train, leave_out

CALLS_IN_TEXT = re.compile(r"<(?:tool_call|functioncall|function_call)>\s*\{[^{}]*?\"name\"\s*:\s*\"([^\"\\]+)\"")
"""The name in a call that stands in an answer's text."""


def may_call_in_text(canonical: bytes) -> bool:
    """A quick look at whether a call may stand in a text of a conversation, as its canonical JSON tells."""
    return b"<" in canonical and (b"<tool_call>" in canonical or b"<function" in canonical)


def leave_out_unshown(messages: list[Message], tools: bytes | None, options: bytes | None) -> list[Message]:
    """The messages, those as context that call a tool which is shown nowhere before.

    A tool is shown where it is defined (`tools`), named in the options for the chat template or in the system's text, or written as
    something to call in a user's.
    """
    defined = list_names(tools) if tools else frozenset()
    said = options.decode() if options else ""
    asked = ""
    found: list[Message] = []
    for message in messages:
        role, text = message[0], message[1]
        if role == "system":
            said += f"\n{text}"
        elif role == "user":
            asked += f"\n{text}"
        elif role == "assistant" and is_train(message):
            names = list_called(message)
            if not all(name in defined or is_named(name, said) or is_written(name, asked) for name in names):
                found.append(leave_out(message))
                continue
        found.append(message)
    return found


@lru_cache(maxsize=1_000)
def list_names(tools: bytes) -> frozenset[str]:
    """The names of tools, given as canonical JSON."""
    return frozenset(tool["function"]["name"] for tool in orjson.loads(tools))


def list_called(message: Message) -> set[str]:
    """The names of the tools that an answer calls, beside its text or in it."""
    names = {call["function"]["name"] for call in calls_of(message)}
    return names | set(CALLS_IN_TEXT.findall(message[1])) if "<" in message[1] else names


def is_named(name: str, text: str) -> bool:
    """Whether a name stands in a text as a word of its own."""
    return name in text and bool(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text))


def is_written(name: str, text: str) -> bool:
    """Whether a name stands in a text as that of something to call: in quotes, or before a bracket."""
    escaped = re.escape(name)
    return name in text and bool(re.search(rf"[\"'`]{escaped}[\"'`]|(?<!\w){escaped}\s*\(", text))
