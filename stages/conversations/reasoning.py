"""The thoughts of an answer, wherever a dataset puts them: beside the message, in typed parts, or in tags before the answer. Pure functions.

Inside, an answer has one text of thoughts and the content behind it, so that the chat template writes them its own way.
"""

from collections.abc import Mapping

from stages.conversations.message_text import text_of
from stages.conversations.row_notes import Note, note_unread
from stages.conversations.row_rules import (
    REASONING_DIFFERS,
    REASONING_NOT_FIRST,
    REASONING_NOT_TEXT,
    REASONING_UNCLOSED,
    Rejected,
)

REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
"""Keys of a message that hold its thoughts."""

THOUGHT_PARTS = frozenset({"reasoning", "thinking", "thought", "reasoning_text"})
HIDDEN_PARTS = frozenset({"redacted_thinking", "redacted_reasoning"})
"""Types of parts; the latter are thoughts that nobody can read."""
PART_TEXTS = ("text", "value", "reasoning", "thinking", "thought")
"""Keys of a part of thoughts under which their text stands."""

TAGS = (("<think>", "</think>"), ("<thinking>", "</thinking>"), ("<|begin_of_thought|>", "<|end_of_thought|>"))
SPLITTING = (TAGS[0], TAGS[2])
"""At whose closing tag chat templates, or whoever reads the answer, cut it in two, wherever it stands."""
SOLUTION = ("<|begin_of_solution|>", "<|end_of_solution|>")
LINE_ENDS = "\r\n"


def may_hold_thoughts(text: str) -> bool:
    """A quick look at whether tags of thoughts may stand in a text."""
    # one sign is found many times as fast as a word, and most texts have none
    return "<" in text and ("think" in text or "_thought|>" in text)


def split_inline(text: str) -> tuple[str, str]:
    """(thoughts, answer) of an answer that may begin with thoughts in tags; ("", the text as it is) where it does not.

    The thoughts lose the white space at their edges, the answer the line ends behind the tag: these belong to the tags.

    Raises:
        Rejected: reasoning_unclosed, reasoning_not_first.
    """
    begun = text.lstrip()
    for opening, closing in TAGS:
        if begun.startswith(opening):
            thoughts, closed, answer = begun.removeprefix(opening).partition(closing)
            if not closed or opening in thoughts:
                raise Rejected(REASONING_UNCLOSED)
            answer = take_solution(answer)
            check_tags(answer)
            return check_thoughts(thoughts), answer
    check_tags(text)
    return "", text


def take_solution(text: str) -> str:
    """What stands behind thoughts, without the tags that some sets put around the answer. Raises Rejected for half of them."""
    begun = text.lstrip()
    if not begun.startswith(SOLUTION[0]):
        answer = text.lstrip(LINE_ENDS)
        return "" if answer.isspace() else answer
    answer, closed, behind = begun.removeprefix(SOLUTION[0]).partition(SOLUTION[1])
    if not closed or behind.strip():
        raise Rejected(REASONING_UNCLOSED)
    return "" if answer.isspace() else answer.strip(LINE_ENDS)


def check_tags(answer: str) -> None:
    """Raise Rejected for tags of thoughts in an answer at which it would be cut in two."""
    for opening, closing in SPLITTING:
        if closing in answer:
            first = answer.find(opening)
            raise Rejected(REASONING_NOT_FIRST if 0 <= first < answer.find(closing) else REASONING_UNCLOSED)


def check_thoughts(text: str) -> str:
    """Thoughts without white space at the edges. Raises Rejected where tags in them would end them early."""
    if any(closing in text for _, closing in SPLITTING):
        raise Rejected(REASONING_UNCLOSED)
    return text.strip()


def unwrap(text: str) -> str:
    """Thoughts of a key or a part, without tags around the whole of them."""
    stripped = text.strip()
    for opening, closing in TAGS:
        if stripped.startswith(opening) and stripped.endswith(closing):
            stripped = stripped.removeprefix(opening).removesuffix(closing)
            break
    return check_thoughts(stripped)


def split_off_thoughts(content: list[object], notes: list[Note]) -> tuple[str, list[object]]:
    """(thoughts, the other parts) of typed parts. Raises Rejected: reasoning_not_text, reasoning_not_first."""
    thoughts: list[str] = []
    others: list[object] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(part, dict) or not isinstance(kind, str) or kind not in THOUGHT_PARTS | HIDDEN_PARTS:
            others.append(part)
            continue
        if others:
            raise Rejected(REASONING_NOT_FIRST)
        thoughts.append(read_part(part, kind, notes))
    return "\n\n".join(filter(None, thoughts)), others


def read_part(part: Mapping[str, object], kind: str, notes: list[Note]) -> str:
    """The text of a part of thoughts. Raises Rejected."""
    key = next((name for name in (*PART_TEXTS, kind) if part.get(name) is not None), None)
    value = part[key] if key else None
    if kind in HIDDEN_PARTS or not isinstance(value, str | list):
        raise Rejected(REASONING_NOT_TEXT)
    note_unread(part, frozenset({"type", key or kind}), "messages[].content[]", notes)
    return unwrap(read_text(value))


def read_text(value: object) -> str:
    """Thoughts that are a text, or typed parts of text. Raises Rejected."""
    try:
        return text_of(value)
    except Rejected as rejected:
        raise Rejected(REASONING_NOT_TEXT) from rejected


def read_beside(beside: Mapping[str, object]) -> list[str]:
    """The thoughts under the keys of an answer, as often as they are said. Raises Rejected for what is no text."""
    found = [value for key in REASONING_KEYS if (value := beside.get(key)) is not None]
    return [unwrap(read_text(value)) for value in found if value != ""]


def agree_on(said: list[str]) -> str | None:
    """The thoughts of an answer, of all places where some are said; None where there are none. Raises Rejected where two differ."""
    found = dict.fromkeys(filter(None, said))
    if len(found) > 1:
        raise Rejected(REASONING_DIFFERS)
    return next(iter(found), None)
