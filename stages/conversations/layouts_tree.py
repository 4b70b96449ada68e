"""Layouts with a tree of replies in a row (OASST): one path through it is the conversation. Pure functions."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, Literal

from stages.conversations.dialects import SYSTEM_COLUMNS, Dialect, Row, Turn, parse_json
from stages.conversations.message_lists import system_turns
from stages.conversations.roles import role_of
from stages.conversations.row_rules import LAYOUT, Rejected

Trees = Literal["best_ranked", "longest", "refuse"]
"""Which path is taken through a tree, as in standardize's params."""

REPLIES = "replies"
ROOTS = ("prompt", "root", "tree", "message")
"""Columns that may hold the first message of a tree."""
WORST = float("inf")
DEEPEST = 500
"""Messages of a path, at most."""


def find_tree_dialect(row: Row, trees: Trees) -> Dialect | None:
    """The dialect of a row that holds a tree of replies, or is the first message of one; None if it is none."""
    for column in ROOTS:
        if is_node(parse_json(row.get(column))):
            return tree_dialect(column, trees)
    return tree_dialect(None, trees) if is_node(row) else None


def is_node(value: object) -> bool:
    """Whether this is a message with a list of replies."""
    return isinstance(value, dict) and isinstance(value.get(REPLIES), list) and ("text" in value or "content" in value)


@cache
def tree_dialect(column: str | None, trees: Trees) -> Dialect:
    """A tree in a column, or (None) the row itself."""
    path = "longest path" if trees == "longest" else "best-ranked path"
    keys = {"role", "text", "content", "rank", "deleted", REPLIES}
    columns = {column} if column else keys
    turns = partial(tree_turns, column=column, longest=trees == "longest")
    return Dialect(
        f"{column or 'message'}: tree of replies, {path}",
        turns,
        frozenset({*columns, *SYSTEM_COLUMNS}),
        frozenset(keys),
    )


def is_tree_dialect(dialect: Dialect) -> bool:
    """Whether a dialect takes a path through a tree."""
    return isinstance(dialect.turns, partial) and dialect.turns.func is tree_turns


def tree_turns(row: Row, *, column: str | None, longest: bool) -> list[Turn]:
    """The messages of one path, up to its last answer. Raises Rejected for what is no tree."""
    root = row if column is None else parse_json(row.get(column))
    if not is_node(root):
        raise Rejected(LAYOUT)
    path = follow(root, measure_depths(root).__getitem__ if longest else None)
    last = max(
        (index for index, node in enumerate(path) if role_of(node.get("role")) == "assistant"), default=len(path) - 1
    )
    system = system_turns(row, SYSTEM_COLUMNS) if column else []
    return [
        *system,
        *(Turn(node.get("role"), text_in(node), None if node is row else node) for node in path[: last + 1]),
    ]


def follow(root: Any, depth_of: Callable[[int], int] | None) -> list[dict[str, Any]]:  # noqa: ANN401 - JSON
    """From the first message down: at each the reply of the longest branch, if `depth_of` tells it (by id()), then the one of the best rank."""
    path = [root]
    while found := replies_of(path[-1]):
        if len(path) >= DEEPEST:
            raise Rejected(LAYOUT)
        path.append(min(found, key=lambda node: (-depth_of(id(node)) if depth_of else 0, rank_of(node))))
    return path


def measure_depths(root: Any) -> dict[int, int]:  # noqa: ANN401 - JSON
    """{id() of a message: messages of the longest path from it on}."""
    order, depths = list(walk(root)), dict[int, int]()
    for node in reversed(order):
        depths[id(node)] = 1 + max((depths[id(reply)] for reply in replies_of(node)), default=0)
    return depths


def walk(root: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - JSON
    """Every message of a tree, each before its replies."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += replies_of(node)


def replies_of(node: dict[str, Any]) -> list[dict[str, Any]]:
    """The replies to a message that were not deleted. Raises Rejected."""
    replies = node.get(REPLIES) or []
    if not isinstance(replies, list) or not all(isinstance(reply, dict) for reply in replies):
        raise Rejected(LAYOUT)
    return [reply for reply in replies if reply.get("deleted") is not True]


def rank_of(node: dict[str, Any]) -> float:
    """The rank that people gave a reply, 0 the best; the worst where they gave none."""
    rank = node.get("rank")
    return rank if isinstance(rank, int | float) and not isinstance(rank, bool) else WORST


def text_in(node: dict[str, Any]) -> object:
    """What a message says."""
    return node["text"] if "text" in node else node.get("content")
