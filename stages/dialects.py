"""The layouts in which datasets write conversations, found out by looking at rows; pure functions.

A layout is one way to read a row: (role, content) pairs as they stand there. What a pair must be is for `stages.rules`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import orjson

from stages.errors import StageError
from stages.rules import ROLES, Rejected

Row = Mapping[str, object]
Pair = tuple[object, object]
"""(role, content) as they stand in the row, not checked."""

CHAT_COLUMNS = ("messages", "conversations", "conversation", "dialog")
CHAT_KEYS = {"from/value": ("from", "value"), "role/content": ("role", "content")}
PAIR_COLUMNS = {
    "prompt/completion": ("prompt", "completion"),
    "prompt/response": ("prompt", "response"),
    "question/answer": ("question", "answer"),
    "query/response": ("query", "response"),
}
KNOWN = (
    "a list of from/value or role/content messages in "
    + ", ".join(CHAT_COLUMNS)
    + "; instruction/input/output; "
    + ", ".join(PAIR_COLUMNS)
)


@dataclass(frozen=True)
class Layout:
    """One way to read a row."""

    name: str
    matches: Callable[[Row], bool]
    """Whether the row has this layout's columns."""
    pairs: Callable[[Row], list[Pair]]
    """The row's (role, content) pairs. Raises Rejected where the row is of another layout or has no messages."""


def recognize(rows: Iterable[Row]) -> Layout:
    """The one layout that most of the rows have.

    Raises StageError, which lists the columns seen and how to map them, if none fits, or if two fit the same rows.
    """
    columns: Counter[str] = Counter()
    matched: list[list[str]] = []
    for row in rows:
        columns.update(row.keys())
        matched.append([layout.name for layout in LAYOUTS if layout.matches(row)])
    counts = Counter(name for names in matched for name in names)
    best, most = counts.most_common(1)[0] if counts else ("", 0)
    beside = Counter(name for names in matched if best in names for name in names)
    fits = [layout for layout in LAYOUTS if beside[layout.name] * 2 > most]
    if len(fits) == 1:
        return fits[0]
    found = (
        f"several layouts fit the same rows ({', '.join(layout.name for layout in fits)})"
        if fits
        else f"none is known (known: {KNOWN})"
    )
    seen = ", ".join(repr(column[:40]) for column, _ in columns.most_common(30))
    raise StageError(
        f"the layout of this dataset is not clear: {found}. Columns in its first {len(matched)} rows: {seen}. Say which columns hold what: "
        "standardize.columns: {prompt: COLUMN, answer: COLUMN, system: null}, or {messages: COLUMN} for a list of messages."
    )


def mapped_pair(prompt: str, answer: str, system: str | None) -> Layout:
    """The layout of a named prompt and answer column (and a system column, or null)."""
    return Layout(
        f"{prompt}/{answer}",
        lambda row: prompt in row and answer in row,
        partial(prompt_pairs, prompt=prompt, answer=answer, system=system),
    )


def mapped_chat(column: str, rows: Iterable[Row]) -> Layout:
    """The layout of a named column of messages; its keys are found out by looking. Raises StageError if none of the rows has any."""
    rows = list(rows)
    candidates = [chat_layout(column, keys) for keys in CHAT_KEYS]
    counts = [sum(layout.matches(row) for row in rows) for layout in candidates]
    if not any(counts):
        raise StageError(
            f"standardize.columns.messages names {column!r}, but no row among the first {len(rows)} holds a list of "
            f"{' or '.join(CHAT_KEYS)} messages there"
        )
    return candidates[counts.index(max(counts))]


def chat_layout(column: str, keys: str) -> Layout:
    """A list of messages in `column`, their role and content under `keys`."""
    role, content = CHAT_KEYS[keys]
    return Layout(
        f"{column}: {keys}",
        partial(is_chat, column=column, role=role, content=content),
        partial(chat_pairs, column=column, role=role, content=content),
    )


def listed(value: object) -> object:
    """A list that a .csv had to write as JSON text, as a list; anything else as it is."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def is_chat(row: Row, *, column: str, role: str, content: str) -> bool:
    """Whether `column` is a list whose first message has both keys."""
    messages = listed(row.get(column))
    if not isinstance(messages, list) or not messages:
        return False
    first = messages[0]
    return isinstance(first, dict) and role in first and content in first


def chat_pairs(row: Row, *, column: str, role: str, content: str) -> list[Pair]:
    """The messages of `column`, after the row's own `system` column where it has one."""
    if column not in row:
        raise Rejected("layout")
    messages = listed(row[column])
    if messages is None or messages == []:
        raise Rejected("no_messages")
    if not isinstance(messages, list):
        raise Rejected("layout")
    pairs: list[Pair] = []
    for item in messages:
        if not isinstance(item, dict) or (role not in item and content not in item):
            raise Rejected("layout")
        check_extras(item, item.get(role))
        pairs.append((item.get(role), item.get(content)))
    return system_pairs(row, "system") + pairs


def check_extras(item: Row, role: object) -> None:
    """Raise Rejected where dropping what stands beside role and content would change what is learned."""
    if item.get("tool_calls") or item.get("function_call"):
        raise Rejected("tool_calls")
    if isinstance(role, str) and ROLES.get(role.lower()) == "assistant":
        weights = [item[key] for key in ("weight", "loss_weight", "train") if item.get(key) is not None]
        if any(weight in (0, False) for weight in weights):
            raise Rejected("weight_zero_answer")


def system_pairs(row: Row, column: str | None) -> list[Pair]:
    """The system turn of a column of its own; none where it is absent, null or empty (a .csv cannot say null)."""
    value = row.get(column) if column else None
    return [] if value is None or value == "" else [("system", value)]


def history_pairs(row: Row) -> list[Pair]:
    """The earlier turns of a `history` column: [[question, answer], ...]."""
    history = listed(row.get("history"))
    if history is None or history == "":
        return []
    if not isinstance(history, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in history):  # noqa: PLR2004
        raise Rejected("layout")
    return [pair for question, answer in history for pair in (("user", question), ("assistant", answer))]


def prompt_pairs(row: Row, *, prompt: str, answer: str, system: str | None) -> list[Pair]:
    """A question and its answer in two columns, after the system's and the earlier turns."""
    if prompt not in row or answer not in row:
        raise Rejected("layout")
    return [*system_pairs(row, system), *history_pairs(row), ("user", row[prompt]), ("assistant", row[answer])]


def is_pair(row: Row, *, prompt: str, answer: str) -> bool:
    """Whether both columns are there as text (a `prompt` that is a list of messages is another dialect)."""
    return isinstance(row.get(prompt), str) and isinstance(row.get(answer), str)


def alpaca_pairs(row: Row) -> list[Pair]:
    """instruction, a line break and the input (where there is one) as the question; output as the answer."""
    if "instruction" not in row or "output" not in row:
        raise Rejected("layout")
    instruction, extra = row["instruction"], row.get("input")
    if extra is not None and extra != "":
        if not isinstance(instruction, str) or not isinstance(extra, str):
            raise Rejected("content_not_text")
        instruction = f"{instruction}\n{extra}" if instruction else extra
    return [*system_pairs(row, "system"), *history_pairs(row), ("user", instruction), ("assistant", row["output"])]


LAYOUTS = (
    *(chat_layout(column, keys) for column in CHAT_COLUMNS for keys in CHAT_KEYS),
    Layout("instruction/input/output", partial(is_pair, prompt="instruction", answer="output"), alpaca_pairs),
    *(
        Layout(
            name,
            partial(is_pair, prompt=prompt, answer=answer),
            partial(prompt_pairs, prompt=prompt, answer=answer, system="system"),
        )
        for name, (prompt, answer) in PAIR_COLUMNS.items()
    ),
)
