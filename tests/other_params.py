"""Every param of a params file, and a value that it has not."""

from typing import Any


def leaves(values: dict[str, Any], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every key path of params.yaml that holds a value."""
    found = []
    for key, value in values.items():
        found += leaves(value, (*prefix, key)) if isinstance(value, dict) and value else [(*prefix, key)]
    return found


def another(value: Any) -> Any:
    """A value that differs; keys do not ask whether it is allowed."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, list):
        return [*value, "x"]
    return {"x": 1} if isinstance(value, dict) else 1
