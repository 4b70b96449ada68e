"""Which fields of two JSON values differ, in words."""

import json
from itertools import islice
from typing import Any

from stages.core.value_differences import compare_values, show_value

MOST = 10
"""Fields of one file that are named."""


def name_differences(before: object, now: object, names: tuple[str, str]) -> list[tuple[str, str]]:
    """[(field, `BEFORE 1, NOW 2`)] of what differs, the first ones; `names`: what the two sides are called."""
    found = islice(compare_values("", before, now), MOST)
    return [(one.name, f"{names[0]} {show_value(one.first)}, {names[1]} {show_value(one.second)}") for one in found]


def read_object(text: bytes) -> dict[str, Any] | None:
    """A JSON object out of a file's bytes; None if it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
