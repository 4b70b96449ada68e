"""What is told of a row that is kept: keys that nothing reads, and what was changed in reading it. Pure functions.

A row has each note once, so that a count of notes is a count of rows.
"""

from collections.abc import Mapping
from functools import lru_cache

Note = tuple[str, str]
"""(kind, name of a key where the kind has some, else empty)."""

COLUMN = "columns"
MESSAGE_KEY = "message_keys"

OPTIONS = "chat_template_kwargs"
OF_EVERY_LAYOUT = frozenset({OPTIONS})
"""Columns that are read whatever the dialect."""
EMPTY_TEXTS = ("[]", "{}", "null")
"""Nothing, as columns of JSON text say it."""
LONGEST_NAME = 80
"""Characters that are told of a key's name."""


def note_unread(item: Mapping[str, object], read: frozenset[str], place: str, notes: list[Note]) -> None:
    """Add a note for each key of an object that holds something and that nothing reads.

    Args:
        item: a message, a part of its content, or a call.
        read: the keys that are read.
        place: where it stands, such as `messages[]`.
        notes: what is added to.
    """
    unread = list_unread(tuple(item), read)
    notes += [(MESSAGE_KEY, f"{place}.{shorten(key)}") for key in unread if is_something(item[key])]


def note_columns(row: Mapping[str, object], read: frozenset[str], more: frozenset[str], notes: list[Note]) -> None:
    """Add a note for each column of a row that holds something and that nothing reads: neither the dialect (`read`) nor another (`more`)."""
    for key, note in list_unread_columns(tuple(row), read, more):
        value = row[key]
        # most hold a number or a text
        if (value and type(value) is not str) or is_something(value):
            notes.append(note)


@lru_cache(maxsize=1_000)
def list_unread_columns(
    keys: tuple[str, ...], read: frozenset[str], more: frozenset[str]
) -> tuple[tuple[str, Note], ...]:
    """The columns that are not read, each with its note."""
    return tuple([(key, (COLUMN, shorten(key))) for key in list_unread(keys, read | more | OF_EVERY_LAYOUT)])


@lru_cache(maxsize=1_000)
def list_unread(keys: tuple[str, ...], read: frozenset[str]) -> tuple[str, ...]:
    """The keys that are not read. A dataset of a million rows has few sets of keys."""
    return tuple([key for key in keys if key not in read])


def is_something(value: object) -> bool:
    """Whether something is lost where this is not read: no null, nothing empty; 0 and false say something."""
    return value not in EMPTY_TEXTS if value else value is not None and value in (0, False)


def shorten(name: str) -> str:
    """A key's name as it can be told: not too long, without lone surrogates."""
    return name[:LONGEST_NAME].encode("utf-8", "backslashreplace").decode()
