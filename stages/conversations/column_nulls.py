"""Nulls that a column format puts into nested values: where all rows share one structure, each has the keys of all others. Pure functions.

In .jsonl a null is the author's and stays. A key whose object is absent is null there; an object without any of the keys that others have
holds nothing but nulls and is empty again. What stands in JSON text has no such nulls.
"""

from collections.abc import Collection, Mapping
from typing import Any


def remove_nulls(
    row: Mapping[str, Any], columns: Collection[str], whole: Collection[str]
) -> tuple[dict[str, Any], bool]:
    """(the row without nulls in nested values, whether there was one).

    Args:
        row: of a file with columns.
        columns: those that hold messages, or what becomes one: a message's own keys stay, since null means none there.
        whole: those that hold tools or options: all their keys are looked at.
    """
    found = False
    cleaned = dict(row)
    for name in row.keys() & {*columns, *whole}:
        value = row[name]
        if not isinstance(value, list | dict):
            continue
        if name not in whole and isinstance(value, list):
            new = [
                {key: prune(inner) for key, inner in item.items()} if isinstance(item, dict) else prune(item)
                for item in value
            ]
        else:
            new = prune(value)
        if new != value:
            cleaned[name], found = new, True
    return cleaned, found


def prune(value: Any) -> Any:  # noqa: ANN401 - whatever a column holds
    """The value without keys whose value is null; elements of lists stay."""
    if type(value) is dict:
        return {key: prune(inner) for key, inner in value.items() if inner is not None}
    if type(value) is list:
        return [prune(inner) for inner in value]
    return value
