"""Layouts of question answering whose answers are a list of right ones (SQuAD, NQ, TriviaQA). Pure functions."""

from functools import cache, partial

from stages.conversations.dialects import SYSTEM_COLUMNS, Dialect, Row, Turn, parse_json
from stages.conversations.layouts_pair import CONTEXT_COLUMNS, join_question
from stages.conversations.message_lists import system_turns
from stages.conversations.row_rules import CONTENT_NOT_TEXT, EMPTY_CONTENT, LAYOUT, Rejected

QUESTIONS = ("question", "query")
ANSWERS = ("answers", "answer")
TEXT_KEYS = ("text", "value")
"""The key of the text, or texts, of an answer that is an object."""


def find_reference_dialect(row: Row) -> Dialect | None:
    """The dialect of a question whose answers are a list, or an object with texts; None if the row has none."""
    for question in QUESTIONS:
        for answers in ANSWERS:
            if isinstance(row.get(question), str) and is_list_of_answers(row.get(answers)):
                about = next((name for name in CONTEXT_COLUMNS if isinstance(row.get(name), str)), None)
                return reference_dialect(question, about, answers)
    return None


def is_list_of_answers(value: object) -> bool:
    """Whether these are texts: in a list, or in an object under one of the known keys."""
    texts = list_texts(value)
    return isinstance(texts, list) and all(isinstance(text, str) for text in texts)


def list_texts(value: object) -> object:
    """The right answers as they stand there; whatever else this is, as it is."""
    value = parse_json(value)
    if isinstance(value, dict):
        value = next((value[key] for key in TEXT_KEYS if key in value), value)
        return [value] if isinstance(value, str) else value
    return value


@cache
def reference_dialect(question: str, about: str | None, answers: str) -> Dialect:
    """A question, what it is about, and the right answers: the first one is learned."""
    names = [name for name in (question, about, answers) if name]
    turns = partial(reference_turns, question=question, about=about, answers=answers)
    return Dialect(f"{'/'.join(names)}: the first answer", turns, frozenset({*names, *SYSTEM_COLUMNS}))


def reference_turns(row: Row, *, question: str, about: str | None, answers: str) -> list[Turn]:
    """The question with what it is about, and the first right answer. Raises Rejected: a question that has none is set aside."""
    if question not in row or answers not in row:
        raise Rejected(LAYOUT)
    texts = list_texts(row[answers])
    if texts is None or texts == []:
        raise Rejected(EMPTY_CONTENT)
    if not isinstance(texts, list):
        raise Rejected(CONTENT_NOT_TEXT)
    asked = join_question(row[question], row.get(about) if about else None)
    given = parse_json(row[answers])
    more = {key: value for key, value in given.items() if key not in TEXT_KEYS} if isinstance(given, dict) else None
    return [*system_turns(row, SYSTEM_COLUMNS), Turn("user", asked, None), Turn("assistant", texts[0], more)]
