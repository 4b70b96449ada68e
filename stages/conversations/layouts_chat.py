"""Layouts with a whole conversation in one column: a list of messages, of exchanges or of texts in turn. Pure functions."""

from functools import cache, partial
from itertools import cycle, product

from stages.conversations.content_blocks import PARTS
from stages.conversations.dialects import MESSAGE_KEYS, SYSTEM_COLUMNS, Dialect, Row, Turn, parse_list
from stages.conversations.message_lists import message_turns, messages_in, system_turns
from stages.conversations.row_rules import LAYOUT, Rejected

CONTENTS = "contents"
CHAT_COLUMNS = ("messages", "conversations", "conversation", "dialog", "dialogue", "dialogs", "chat", CONTENTS)
CHAT_KEYS = (*MESSAGE_KEYS, ("role", PARTS))
"""(role's key, content's key) of a message in such a column."""

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

TEXTS_COLUMNS = ("data", *CHAT_COLUMNS)
INSTRUCTIONS = ("systemInstruction", "system_instruction")
"""Gemini's columns of the system's message."""


def find_chat_dialect(row: Row, column: str) -> Dialect | None:
    """The dialect of a column that holds a list of messages or exchanges, by its first element; None if it holds none."""
    value = parse_list(row.get(column))
    first = value[0] if isinstance(value, list) and value else None
    if not isinstance(first, dict):
        return None
    for role, content in CHAT_KEYS:
        if role in first and content in first:
            return chat_dialect(column, role, content)
    for question, answer in EXCHANGE_KEYS:
        if question in first and answer in first:
            return exchange_dialect(column, question, answer)
    return None


def find_texts_dialect(row: Row) -> Dialect | None:
    """The dialect of a column that holds two texts or more, said in turn; None if none does."""
    for column in TEXTS_COLUMNS:
        value = parse_list(row[column]) if column in row else None
        if isinstance(value, list) and len(value) > 1 and all(isinstance(text, str) for text in value):
            return texts_dialect(column)
    return None


@cache
def chat_dialect(column: str, role: str, content: str) -> Dialect:
    """A list of messages in `column`."""
    system = (*SYSTEM_COLUMNS, *INSTRUCTIONS) if content == PARTS else SYSTEM_COLUMNS
    turns = partial(chat_turns, column=column, role=role, content=content, system=system)
    return Dialect(f"{column}: {role}/{content}", turns, frozenset({column, *system}), frozenset({role, content}))


@cache
def exchange_dialect(column: str, question: str, answer: str) -> Dialect:
    """A list of exchanges in `column`."""
    turns = partial(exchange_turns, column=column, question=question, answer=answer)
    keys = frozenset({question, answer, "system"})
    return Dialect(f"{column}: {{{question}, {answer}}}", turns, frozenset({column, *SYSTEM_COLUMNS}), keys)


@cache
def texts_dialect(column: str) -> Dialect:
    """A list of texts in `column`: the user's and the assistant's in turn."""
    columns = frozenset({column, *SYSTEM_COLUMNS})
    return Dialect(f"{column}: texts in turn", partial(texts_turns, column=column), columns)


def chat_turns(row: Row, *, column: str, role: str, content: str, system: tuple[str, ...]) -> list[Turn]:
    """The messages of `column`, after the row's own system column where it has one that does not stand among them."""
    said, turns = system_turns(row, system), message_turns(messages_in(row, column), role, content)
    if said and isinstance(said[0].content, dict) and PARTS in said[0].content:
        said = message_turns([{"role": "system", **said[0].content}], "role", PARTS)
    is_there = bool(said and turns) and (turns[0].role, turns[0].content) == (said[0].role, said[0].content)
    return turns if is_there or not said else said + turns


def exchange_turns(row: Row, *, column: str, question: str, answer: str) -> list[Turn]:
    """The exchanges of `column`, after a system turn: the row's, or one that stands in an exchange."""
    turns = system_turns(row, SYSTEM_COLUMNS)
    for item in messages_in(row, column):
        if not isinstance(item, dict) or (question not in item and answer not in item):
            raise Rejected(LAYOUT)
        turns += system_turns(item, ("system",))
        # what else an exchange says, such as a weight, it says of its answer
        more = item if len(item) > 2 else None  # noqa: PLR2004
        turns += [Turn("user", item.get(question), None), Turn("assistant", item.get(answer), more)]
    return turns


def texts_turns(row: Row, *, column: str) -> list[Turn]:
    """The texts of `column` in turn, after the row's system column."""
    texts = messages_in(row, column)
    said = zip(cycle(("user", "assistant")), texts, strict=False)
    return [*system_turns(row, SYSTEM_COLUMNS), *(Turn(role, text, None) for role, text in said)]
