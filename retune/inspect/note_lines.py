"""What `retune inspect` says of tools and weights, of keys that nothing reads, and of what was changed in reading the rows."""

from collections.abc import Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any

from stages.conversations.note_counts import count_rows
from stages.conversations.row_rules import (
    CHANGES,
    GREETING,
    HANDED_ON,
    MERGED,
    NOTES,
    NULLS_REMOVED,
    NUMBERS_AS_TEXT,
    TOOLS_NOT_SHOWN,
)

ABOUT = {
    NULLS_REMOVED: "nulls",
    NUMBERS_AS_TEXT: "numbers",
    TOOLS_NOT_SHOWN: "calls",
    MERGED: "turns",
    GREETING: "turns",
}
"""What each change is about."""


def reading_lines(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(what it is about, what is said of it) of tools, weights, keys, and changes."""
    tools = found["tools"]
    said = f"yes: {tools['defined']:,} rows define some, {tools['calls']:,} messages call one"
    yield "tools", said if tools["defined"] or tools["calls"] else "no"
    if tools["thoughts"]:
        yield "thoughts", f"{tools['thoughts']:,} answers of the kept rows stand behind thoughts"
    if tools["context_only"]:
        yield "context", f"{tools['context_only']:,} answers of the kept rows are context only: not trained"
    yield from note_lines(found["notes"])


def note_lines(notes: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(what it is about, what is said of it); a line of its own for each number of rows that have the same keys ignored."""
    ignored = {**notes["ignored"]["columns"], **notes["ignored"]["message_keys"]}
    yield from zip(("ignored", *[""] * len(ignored)), group_names(ignored), strict=False)
    if notes["ignored"]["more"]:
        yield "", f"and {notes['ignored']['more']:,} keys more"
    for line in group_names(notes["handed_on"]):
        yield "handed", f"{line} ({NOTES[HANDED_ON]})"
    for kind, words in CHANGES.items():
        if rows := notes[kind]:
            yield ABOUT[kind], f"in {count_rows(rows)} {words}"


def group_names(names: Mapping[str, int]) -> list[str]:
    """Names with the number of rows that have them, the commonest first."""
    by_rows = sorted(names.items(), key=lambda item: (-item[1], item[0]))
    return [
        f"{', '.join(name for name, _ in group)}: in {count_rows(rows)}"
        for rows, group in groupby(by_rows, key=itemgetter(1))
    ]
