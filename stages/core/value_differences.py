"""Two sets of params held against each other, field by field; and their values as a person reads them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

LONGEST = 80
"""Characters of a value that a message shows."""


class Absent(Enum):
    """In place of a value: the field is not there."""

    ABSENT = "absent"


ABSENT = Absent.ABSENT


@dataclass(frozen=True)
class FieldDifference:
    """A field whose value is another in two sets of params."""

    name: str
    """Its path: `train.lora.r`, `fetch_data.sources.0.split`."""
    first: Any
    """Its value in the first, or ABSENT."""
    second: Any


def compare_values(name: str, first: object, second: object) -> Iterator[FieldDifference]:
    """Every field at or below `name` that differs. 1 and 1.0 are one number, true is none; lists of one length are compared item by item."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for key in dict.fromkeys([*first, *second]):
            yield from compare_values(join(name, key), first.get(key, ABSENT), second.get(key, ABSENT))
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for number, (one, other) in enumerate(zip(first, second, strict=True)):
            yield from compare_values(join(name, number), one, other)
    elif not is_same(first, second):
        yield FieldDifference(name, first, second)


def join(name: str, key: object) -> str:
    """The path of a key below `name`."""
    return f"{name}.{key}" if name else f"{key}"


def is_same(first: object, second: object) -> bool:
    """Whether two values that are no mappings are one to who reads them as params."""
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and not any(compare_values("", first, second))
    if isinstance(first, float) and isinstance(second, float) and first != first and second != second:  # noqa: PLR0124 - NaN
        return True
    return first == second


def show_value(value: object) -> str:
    """A value as params.yaml would have it, on one line, what cannot be printed spelled out, at most `LONGEST` characters."""
    if value is ABSENT:
        return "nothing"
    text = show_text(json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ..."


def show_text(text: str) -> str:
    """Text out of a file with control characters, line ends and what reorders a line spelled out."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
