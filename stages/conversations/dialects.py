"""What a dialect is: one way to read a row as turns. Pure functions.

The dialects themselves stand in layouts_*.py, `stages.conversations.layouts` looks for them all. What a turn must be is for
`stages.conversations.canonical`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import orjson

Row = Mapping[str, object]


class Turn(NamedTuple):
    """One message as it stands in the row, not checked."""

    role: object
    content: object
    beside: Row | None
    """The whole message, where more than role and content is in it."""


@dataclass(frozen=True)
class Dialect:
    """One way to read a row; messages to people call it a layout."""

    name: str
    turns: Callable[[Row], list[Turn]]
    """The row's turns. Raises Rejected where the row is of another dialect or has no messages."""
    columns: frozenset[str]
    """The columns of a row that `turns` (and `tools`) read; those that `stages.conversations.canonical` reads for every dialect apart."""
    keys: frozenset[str] = frozenset()
    """The keys of a message (or exchange) that `turns` reads; all others it hands on beside the message."""
    tools: Callable[[Row], object] | None = None
    """What the row says of its tools, where that is not simply what its columns of tools hold."""
    named: bool = False
    """Whether the user named its columns: then what stands in others is no matter."""


MESSAGE_KEYS = tuple(product(("role", "from"), ("content", "value", "text")))
"""(role's key, content's key) of a message."""
KEYS = frozenset(key for pair in MESSAGE_KEYS for key in pair)
SYSTEM_COLUMNS = ("system", "system_prompt")
HISTORY = "history"


def is_list_of_messages(value: object) -> bool:
    """Whether this is a list whose first element has a role."""
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, dict) and ("role" in first or "from" in first)


def parse_list(value: object) -> Any:  # noqa: ANN401 - whatever stands there
    """A list that a .csv had to write as JSON text, as a list; anything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def parse_json(value: object) -> Any:  # noqa: ANN401 - whatever stands there
    """A list or object that stands there as JSON text, as what it is; anything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] == "{":
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return parse_list(value)
