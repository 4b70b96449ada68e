"""Glaive's texts: `SYSTEM: ... USER: ... ASSISTANT: ... <functioncall> {...} FUNCTION RESPONSE: ...`. Pure functions.

The system's text lists the tools as JSON objects, a call holds its arguments as JSON text in single quotes.
"""

import json
import re
from typing import Any

from stages.conversations.dialects import Row, Turn
from stages.conversations.row_rules import TOOL_CALL_UNREADABLE, TRANSCRIPT_UNREADABLE, Rejected

NAMES = {"SYSTEM": "system", "USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool"}
MARK = r"(?P<name>SYSTEM|USER|ASSISTANT|FUNCTION RESPONSE):(?=\s|$)[ ]?"
ON_A_LINE = re.compile(rf"(?:\A|(?<=\n)|(?<=<\|endoftext\|>)|(?<=</s>))[ \t]*{MARK}")
ANYWHERE = re.compile(rf"(?:\A|(?<=\s)|(?<=<\|endoftext\|>)|(?<=</s>)){MARK}")
BEGINNING = re.compile(r"\s*(?:SYSTEM|USER):\s")
CALL = "<functioncall>"
END = re.compile(r"<\|endoftext\|>|</s>\s*\Z")
QUOTED_CALL = re.compile(
    r"""\{\s*"name"\s*:\s*"(?P<name>[^"]*)"\s*,\s*"arguments"\s*:\s*'(?P<arguments>.*)'\s*\}""", re.DOTALL
)


def is_glaive(text: str) -> bool:
    """Whether a text begins as such a one does."""
    return bool(BEGINNING.match(text)) and (text.lstrip().startswith("SYSTEM:") or "ASSISTANT:" in text)


def read_glaive(text: str) -> list[Turn]:
    """The turns of a text, blanks and ends of text at their edges taken off. Raises Rejected where something stands before the first."""
    turns: list[Turn] = []
    for name, said in split_turns(text):
        if name == "SYSTEM":
            content = split_off_tools(said)[0]
            turns += [Turn("system", content, None)] if content else []
        elif name == "ASSISTANT":
            turns.append(read_answer(said))
        else:
            turns.append(Turn(NAMES[name], said, None))
    return turns


def read_glaive_tools(row: Row, column: str) -> list[Any] | None:
    """The tools that the system's text lists, or those of the row's own column; None if there are none."""
    for name in ("system", "system_prompt", column):
        text = row.get(name)
        if isinstance(text, str) and is_glaive(text):
            tools = [tool for name, said in split_turns(text) if name == "SYSTEM" for tool in split_off_tools(said)[1]]
            if tools:
                return tools
    return None


def split_turns(text: str) -> list[tuple[str, str]]:
    """(name, what was said) of each turn. The names begin lines; where the text is one line, they stand in it."""
    marks = list(ON_A_LINE.finditer(text))
    if len(marks) < 2:  # noqa: PLR2004 - a question and its answer
        marks = list(ANYWHERE.finditer(text))
    if not marks or text[: marks[0].start()].strip():
        raise Rejected(TRANSCRIPT_UNREADABLE)
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    said = [END.sub("", text[mark.end() : end]).strip() for mark, end in zip(marks, ends, strict=True)]
    return [(mark["name"], words) for mark, words in zip(marks, said, strict=True)]


def split_off_tools(text: str) -> tuple[str, list[Any]]:
    """(what comes before, the tools) of a system's text that ends with JSON objects; (the text, []) of one that does not."""
    begins = re.search(r"[\[{]", text)
    if begins is None:
        return text, []
    decoder, at, tools = json.JSONDecoder(), begins.start(), list[Any]()
    try:
        while at < len(text):
            value, at = decoder.raw_decode(text, at)
            tools += value if isinstance(value, list) else [value]
            at += len(text[at:]) - len(text[at:].lstrip(" \r\n\t,"))
    except (ValueError, RecursionError):
        return text, []
    if not all(
        isinstance(tool, dict) and isinstance(tool.get("name", tool.get("function")), str | dict) for tool in tools
    ):
        return text, []
    return text[: begins.start()].rstrip(), tools


def read_answer(said: str) -> Turn:
    """An answer, with the calls that stand in it beside it. Raises Rejected for a call that cannot be read."""
    words, *calls = said.split(CALL)
    if not calls:
        return Turn("assistant", said, None)
    return Turn("assistant", words.strip() or None, {"tool_calls": [read_quoted_call(call.strip()) for call in calls]})


def read_quoted_call(text: str) -> dict[str, Any]:
    """A call, its arguments in quotes of either kind or in none. Raises Rejected."""
    quoted = QUOTED_CALL.fullmatch(text)
    if quoted is None:
        call = load(text)
        if not isinstance(call, dict):
            raise Rejected(TOOL_CALL_UNREADABLE)
        return call
    arguments = load(quoted["arguments"])
    if arguments is None:
        # an apostrophe in such a text is escaped, as JSON has no word for it
        arguments = load(quoted["arguments"].replace("\\'", "'"))
    if not isinstance(arguments, dict):
        raise Rejected(TOOL_CALL_UNREADABLE)
    return {"name": quoted["name"], "arguments": arguments}


def load(text: str) -> object:
    """A JSON value; None for what is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
