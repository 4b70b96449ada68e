"""The dialects in which datasets write conversations, and how a row of each is read; pure functions.

A dialect is one way to read a row: its turns as they stand there. What a turn must be is for `stages.conversations.canonical`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from typing import Any, NamedTuple

import orjson

from stages.conversations.row_rules import CONTENT_NOT_TEXT, LAYOUT, NO_MESSAGES, Rejected

Row = Mapping[str, object]


class Turn(NamedTuple):
    """One message as it stands in the row, not checked."""

    role: object
    content: object
    beside: Row | None
    """The whole message, where more than role and content is in it."""


CHAT_COLUMNS = ("messages", "conversations", "conversation", "dialog", "dialogue", "dialogs", "chat")
MESSAGE_KEYS = tuple(product(("role", "from"), ("content", "value", "text")))
"""(role's key, content's key) of a message."""
KEYS = frozenset(key for pair in MESSAGE_KEYS for key in pair)
HISTORY = "history"

EXCHANGE_KEYS = (
    *product(("human", "user"), ("assistant", "gpt", "bot", "model", "ai")),
    ("prompt", "response"),
    ("prompt", "completion"),
    ("question", "answer"),
    ("query", "response"),
    ("instruction", "output"),
    ("input", "output"),
)
"""(question's key, answer's key) of a list in which each element is a question with its answer."""

SYSTEM_COLUMNS = ("system", "system_prompt")
PAIR_COLUMNS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("prompt", "answer"),
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("query", "answer"),
    ("input", "output"),
)
INSTRUCTION_COLUMNS = (("input", "output"), ("context", "response"), ("input", "response"))
"""Beside `instruction`: what it is about (may be missing) and the answer."""

KNOWN = (
    f"a list of role/content or from/value messages, or of {{human, assistant}} exchanges, in {', '.join(CHAT_COLUMNS)}; "
    "instruction/input/output; instruction/context/response; "
    + ", ".join(map("/".join, PAIR_COLUMNS))
    + ", with history"
)


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


def find_dialects(row: Row) -> Iterator[Dialect]:
    """Every dialect that a row has."""
    for column in CHAT_COLUMNS:
        if column in row and (dialect := find_chat_dialect(row, column)):
            yield dialect
    if isinstance(row.get("instruction"), str):
        fits = [pair for pair in INSTRUCTION_COLUMNS if isinstance(row.get(pair[1]), str)]
        yield from [instruction_dialect(*pair) for pair in fits if pair[0] in row] or [
            instruction_dialect(*pair) for pair in fits[:1]
        ]
        if fits:
            return
    for prompt, answer in PAIR_COLUMNS:
        if is_side(row.get(prompt)) and is_side(row.get(answer)):
            yield pair_dialect(prompt, answer, SYSTEM_COLUMNS)


def find_chat_dialect(row: Row, column: str) -> Dialect | None:
    """The dialect of a column that holds a list of messages or exchanges, by its first element; None if it holds none."""
    value = parse_list(row.get(column))
    first = value[0] if isinstance(value, list) and value else None
    if not isinstance(first, dict):
        return None
    for role, content in MESSAGE_KEYS:
        if role in first and content in first:
            return chat_dialect(column, role, content)
    for question, answer in EXCHANGE_KEYS:
        if question in first and answer in first:
            return exchange_dialect(column, question, answer)
    return None


@cache
def chat_dialect(column: str, role: str, content: str) -> Dialect:
    """A list of messages in `column`."""
    turns = partial(chat_turns, column=column, role=role, content=content)
    return Dialect(
        f"{column}: {role}/{content}", turns, frozenset({column, *SYSTEM_COLUMNS}), frozenset({role, content})
    )


@cache
def exchange_dialect(column: str, question: str, answer: str) -> Dialect:
    """A list of exchanges in `column`."""
    turns = partial(exchange_turns, column=column, question=question, answer=answer)
    return Dialect(
        f"{column}: {{{question}, {answer}}}",
        turns,
        frozenset({column, *SYSTEM_COLUMNS}),
        frozenset({question, answer, "system"}),
    )


@cache
def pair_dialect(prompt: str, answer: str, system: tuple[str, ...]) -> Dialect:
    """A question and its answer in two columns, each a text or a list of messages."""
    turns = partial(pair_turns, prompt=prompt, answer=answer, system=system)
    return Dialect(f"{prompt}/{answer}", turns, frozenset({prompt, answer, *system, HISTORY}), KEYS)


@cache
def instruction_dialect(about: str, answer: str) -> Dialect:
    """Alpaca's columns, or Dolly's."""
    columns = frozenset({"instruction", about, answer, *SYSTEM_COLUMNS, HISTORY})
    return Dialect(
        f"instruction/{about}/{answer}", partial(instruction_turns, about=about, answer=answer), columns, KEYS
    )


def chat_turns(row: Row, *, column: str, role: str, content: str) -> list[Turn]:
    """The messages of `column`, after the row's own system column where it has one that does not stand among them."""
    system, turns = system_turns(row, SYSTEM_COLUMNS), message_turns(messages_in(row, column), role, content)
    is_there = bool(system and turns) and (turns[0].role, turns[0].content) == (system[0].role, system[0].content)
    return turns if is_there or not system else system + turns


def message_turns(messages: list[Any], role: str, content: str) -> list[Turn]:
    """A list of messages as turns. Raises Rejected."""
    turns = []
    for item in messages:
        if not isinstance(item, dict) or (role not in item and content not in item):
            raise Rejected(LAYOUT)
        turns.append(Turn(item.get(role), item.get(content), item if len(item) > 2 or content not in item else None))  # noqa: PLR2004
    return turns


def exchange_turns(row: Row, *, column: str, question: str, answer: str) -> list[Turn]:
    """The exchanges of `column`, after a system turn: the row's, or one that stands in an exchange."""
    turns = system_turns(row, SYSTEM_COLUMNS)
    for item in messages_in(row, column):
        if not isinstance(item, dict) or (question not in item and answer not in item):
            raise Rejected(LAYOUT)
        turns += system_turns(item, ("system",))
        turns += [Turn("user", item.get(question), None), Turn("assistant", item.get(answer), None)]
    return turns


def messages_in(row: Row, column: str) -> list[Any]:
    """The list in `column`. Raises Rejected if there is none, or nothing in it."""
    if column not in row:
        raise Rejected(LAYOUT)
    messages = parse_list(row[column])
    if messages is None or messages == []:
        raise Rejected(NO_MESSAGES)
    if not isinstance(messages, list):
        raise Rejected(LAYOUT)
    return messages


def pair_turns(row: Row, *, prompt: str, answer: str, system: tuple[str, ...]) -> list[Turn]:
    """A question and its answer in two columns, after the system's and the earlier turns.

    Answers that stand in a prompt are context: trainers of prompt/completion data put no loss on them.
    """
    if prompt not in row or answer not in row:
        raise Rejected(LAYOUT)
    asked = side_turns(row[prompt], "user")
    if is_list_of_messages(row[prompt]):
        asked = [turn if turn.role == "user" else turn._replace(beside=mark_as_context(turn.beside)) for turn in asked]
    return [*system_turns(row, system), *history_turns(row), *asked, *side_turns(row[answer], "assistant")]


def mark_as_context(beside: Row | None) -> Row:
    """What stands beside a message, with a weight of 0."""
    return {**(beside or {}), "weight": None, "loss_weight": None, "train": False}


def side_turns(value: object, role: str) -> list[Turn]:
    """One side of a pair: a text is one turn, a list of messages is several."""
    if not isinstance(value, list) or not is_list_of_messages(value):
        return [Turn(role, value, None)]
    names = next((keys for keys in MESSAGE_KEYS if keys[0] in value[0] and keys[1] in value[0]), ("role", "content"))
    return message_turns(value, *names)


def instruction_turns(row: Row, *, about: str, answer: str) -> list[Turn]:
    """instruction, a line break and what it is about (where there is something) as the question."""
    if "instruction" not in row or answer not in row:
        raise Rejected(LAYOUT)
    instruction, extra = row["instruction"], row.get(about)
    if extra is not None and extra != "":
        if not isinstance(instruction, str) or not isinstance(extra, str):
            raise Rejected(CONTENT_NOT_TEXT)
        instruction = f"{instruction}\n{extra}" if instruction else extra
    pair = [Turn("user", instruction, None), Turn("assistant", row[answer], None)]
    return [*system_turns(row, SYSTEM_COLUMNS), *history_turns(row), *pair]


def system_turns(row: Row, columns: tuple[str, ...]) -> list[Turn]:
    """The system turn of a column of its own; none where it is absent, null or empty (a .csv cannot say null)."""
    for column in columns:
        value = row.get(column)
        if value is not None and value != "":
            return [Turn("system", value, None)]
    return []


def history_turns(row: Row) -> list[Turn]:
    """The earlier turns of a `history` column: [[question, answer], ...], or a list of messages."""
    history = parse_list(row.get(HISTORY))
    if history is None or history in ("", []):
        return []
    if is_list_of_messages(history):
        return side_turns(history, "user")
    if not isinstance(history, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in history):  # noqa: PLR2004
        raise Rejected(LAYOUT)
    return [
        turn for question, answer in history for turn in (Turn("user", question, None), Turn("assistant", answer, None))
    ]


def is_side(value: object) -> bool:
    """Whether this can be one side of a pair."""
    return isinstance(value, str) or is_list_of_messages(value)


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
