"""A key that stands twice in one object of a record, so that readers differ on what it says; pure functions."""

from typing import Any

from stages.conversations.dialects import Row


def seems_to_repeat_keys(record: bytes, row: Row) -> bool:
    """A cheap look at whether a key may stand twice in an object: then fewer keys were read than are written (each with a quote and a colon)."""
    keys, left = 0, [row]
    while left:
        value: Any = left.pop()
        if type(value) is dict:
            keys += len(value)
            value = value.values()
        left += [inner for inner in value if type(inner) in (dict, list)]
    written = record.count(b'":') + record.count(b'" :')
    return written != keys and written - record.count(b'\\":') - record.count(b'\\" :') != keys


def keep_first_values(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object with the first value of each key."""
    found: dict[str, object] = {}
    for key, value in pairs:
        found.setdefault(key, value)
    return found
