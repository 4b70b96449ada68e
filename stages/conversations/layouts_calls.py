"""Layouts of function calling without messages: a question, the tools, and the calls that answer it (xLAM). Pure functions."""

from functools import cache, partial

from stages.conversations.dialects import SYSTEM_COLUMNS, Dialect, Row, Turn, parse_json, parse_list
from stages.conversations.message_lists import side_turns, system_turns
from stages.conversations.row_rules import EMPTY_CONTENT, LAYOUT, Rejected

QUESTION_COLUMNS = ("query", "question", "prompt", "instruction", "user")
CALLS_COLUMNS = ("answers", "answer", "calls", "tool_calls", "function_calls", "function_call", "output", "response")
TOOLS = ("tools", "functions")
ARGUMENTS = ("arguments", "parameters")


def find_calls_dialect(row: Row) -> Dialect | None:
    """The dialect of a row whose answer is a list of calls to the tools beside it; None if it is none."""
    if not any(is_list_of_named(row.get(name)) for name in TOOLS):
        return None
    for question in QUESTION_COLUMNS:
        for calls in CALLS_COLUMNS:
            if isinstance(row.get(question), str) and is_list_of_calls(row.get(calls)):
                return calls_dialect(question, calls)
    return None


def is_list_of_named(value: object) -> bool:
    """Whether this is a list (or its JSON text) that begins with an object with a name, as a list of tools does."""
    value = parse_list(value)
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, dict) and ("name" in first or "function" in first)


def is_list_of_calls(value: object) -> bool:
    """Whether this is a call, or a list that begins with one (or the JSON text of either)."""
    value = parse_json(value)
    first = value[0] if isinstance(value, list) and value else value
    function = first.get("function", first) if isinstance(first, dict) else None
    return isinstance(function, dict) and "name" in function and any(name in function for name in ARGUMENTS)


@cache
def calls_dialect(question: str, calls: str) -> Dialect:
    """A question in one column, the calls that answer it in another; the tools stand where every dialect has them."""
    columns = frozenset({question, calls, *SYSTEM_COLUMNS})
    return Dialect(f"{question}/tools/{calls}: calls", partial(calls_turns, question=question, calls=calls), columns)


def calls_turns(row: Row, *, question: str, calls: str) -> list[Turn]:
    """The question and the calls. What does not begin as JSON does is an answer in words."""
    if question not in row or calls not in row:
        raise Rejected(LAYOUT)
    found = parse_json(row[calls])
    if found is None or found in ([], ""):
        raise Rejected(EMPTY_CONTENT)
    in_words = isinstance(found, str) and found.lstrip()[:1] not in ("[", "{")
    answer = Turn("assistant", found, None) if in_words else Turn("assistant", None, {"tool_calls": found})
    return [*system_turns(row, SYSTEM_COLUMNS), *side_turns(row[question], "user"), answer]
