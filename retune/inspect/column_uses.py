"""What each column of a dataset is used for: found by leaving it out and looking at what becomes of the rows. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from stages.conversations.row_rules import Rejected
from stages.conversations.tool_calls import read_tools
from stages.conversations.tool_schemas import shows_tools

Row = Mapping[str, object]
Form = tuple[list[tuple[Any, ...]], bytes | None, bytes | None]
"""(messages, tools, options), as `stages.conversations.canonical.canonical_form` gives them."""

CONVERSATION = "the conversation"
TOOLS = "the tools that the assistant may call"
OPTIONS = "options for the chat template"
SYSTEM = "the system message"
EARLIER = "earlier turns"
QUESTION = "the question"
ANSWER = "the answer"
PART = "part of the question"
IGNORED = "ignored"
EMPTY = "ignored (empty)"
SHOWN = "tools that the system message lists already"
UNKNOWN = "not known, since no row can be read"
BLOCKING = "the reason why rows are rejected"


def find_column_uses(rows: Sequence[Row], form_of: Callable[[Row], Form]) -> dict[str, str]:
    """{column: what it is used for}, in the order in which the columns come.

    Args:
        rows: some rows of the dataset.
        form_of: a row in canonical form. Raises Rejected where it has none.
    """
    uses: dict[str, str] = {}
    forms = [read_form(row, form_of) for row in rows]
    for column in dict.fromkeys(column for row in rows for column in row):
        found = [
            use
            for row, form in zip(rows, forms, strict=True)
            if column in row and (use := find_use(row, column, form, form_of))
        ]
        empty = all(row.get(column) in (None, "", [], {}) for row in rows)
        # most rows decide: in one row, an empty system message may not be told from none
        shown = any(form and is_shown(row.get(column), form) for row, form in zip(rows, forms, strict=True))
        unused = EMPTY if empty else SHOWN if shown else IGNORED if any(forms) else UNKNOWN
        uses[column] = max(found, key=found.count) if found else unused
    return uses


def is_shown(value: object, form: Form) -> bool:
    """Whether these are tools that stand in the system's message of a row, so that they are not written again."""
    role, text, *_ = form[0][0]
    if role != "system" or not isinstance(value, list | dict | str):
        return False
    try:
        tools = read_tools(value)
    except Rejected:
        return False
    return tools is not None and shows_tools(text, orjson.loads(tools))


def read_form(row: Row, form_of: Callable[[Row], Form]) -> Form | None:
    """The canonical form, if the row has one."""
    try:
        return form_of(row)
    except Rejected:
        return None


def find_use(row: Row, column: str, form: Form | None, form_of: Callable[[Row], Form]) -> str | None:
    """What a column is used for in a row; None if the row is the same without it."""
    without = read_form({name: value for name, value in row.items() if name != column}, form_of)
    if without == form:
        return None
    if form is None:
        return BLOCKING
    messages, tools, options = form
    use = name_side(row[column], messages) if without is None or without[0][-1] != messages[-1] else None
    if use is None and without is None:
        use = CONVERSATION
    if use is not None or without is None:
        return use
    if without[1:] != (tools, options):
        return TOOLS if without[1] != tools else OPTIONS
    if messages[0][0] == "system" and without[0] == messages[1:]:
        return SYSTEM
    return EARLIER if len(without[0]) < len(messages) else PART


def name_side(value: object, messages: Sequence[tuple[Any, ...]]) -> str | None:
    """Which one this is: the last answer, or (the beginning of) the last question."""
    if isinstance(value, int | float):
        value = orjson.dumps(value).decode()
    for role, use in (("assistant", ANSWER), ("user", QUESTION)):
        last = next((message for message in reversed(messages) if message[0] == role), None)
        if last is not None and isinstance(value, str) and value and last[1].startswith(value):
            return use
    return None
