"""Datasets that are recognized and that no answers can be learned from as they are: why, and what to do. Pure functions over first rows."""

from collections.abc import Callable, Sequence

from stages.conversations.dialects import CHAT_COLUMNS, Dialect, Row, find_dialects, parse_list
from stages.conversations.message_text import has_media_column, has_media_part
from stages.conversations.roles import CALL, role_of
from stages.conversations.row_rules import Rejected

PROMPTS = frozenset({"prompt", "prompts", "question", "questions", "query", "instruction", "input", "problem"})
ANSWERS = frozenset({"completion", "completions", "response", "answer", "output", "target"})
TEXTS = frozenset({"text", "content", "document"})
WORSE = frozenset({"rejected", "rejected_response", "rejected_messages"})
VERDICTS = frozenset({"label", "labels", "kto_tag"})


def refusal(rows: Sequence[Row], dialect: Dialect | None) -> str | None:
    """Why most of the rows cannot be learned from, and what to do; None if they can be, or if nothing is known of them.

    Args:
        rows: the first rows of a source; no column of theirs is named by the user.
        dialect: how they would be read; None: no dialect fits them.
    """
    for holds, says in ALWAYS if dialect else (*ALWAYS, *WITHOUT_LAYOUT):
        if sum(map(holds, rows)) * 2 > len(rows):
            return says
    if dialect and rows and all(asks_only(row, dialect) for row in rows):
        return QUESTIONS_ALONE
    return None


def is_ranked(row: Row) -> bool:
    """Whether the row has a better and a worse answer."""
    return not WORSE.isdisjoint(row)


def is_judged(row: Row) -> bool:
    """Whether the row is an answer, or the steps of one, with a verdict."""
    if ANSWERS.isdisjoint(row) and row.keys().isdisjoint(CHAT_COLUMNS):
        return False
    verdicts = [row.get(name) for name in VERDICTS]
    return any(
        isinstance(said, bool) or (isinstance(said, list) and bool(said) and isinstance(said[0], bool))
        for said in verdicts
    )


def has_media(row: Row) -> bool:
    """Whether pictures, sounds or films belong to the row."""
    return has_media_column(row) or any(
        has_media_part(parse_list(row[column])) for column in (*CHAT_COLUMNS, *PROMPTS) if column in row
    )


def has_prompt_alone(row: Row) -> bool:
    """Whether the row asks and nothing in it answers."""
    return not PROMPTS.isdisjoint(row) and ANSWERS.isdisjoint(row)


def has_answer_alone(row: Row) -> bool:
    """Whether the row answers and nothing in it asks."""
    return not ANSWERS.isdisjoint(row) and PROMPTS.isdisjoint(row)


def has_text_alone(row: Row) -> bool:
    """Whether the row is a text that nobody asked for."""
    return not TEXTS.isdisjoint(row) and PROMPTS.isdisjoint(row) and ANSWERS.isdisjoint(row)


def asks_only(row: Row, dialect: Dialect) -> bool:
    """Whether the row is a conversation whose roles are all known, and none is the assistant's."""
    if dialect.name not in [each.name for each in find_dialects(row)]:
        return False
    try:
        roles = {role_of(turn.role) for turn in dialect.turns(row)}
    except Rejected:
        return False
    return roles.isdisjoint({None, "assistant", CALL})


RANKED = (
    "preference data (a better and a worse answer): here answers are learned, not preferences. To learn the better ones alone, name the "
    "columns: messages=chosen where it holds messages, or prompt=prompt,answer=chosen"
)
JUDGED = (
    "preference data (answers with a verdict, true or false): here every answer is learned, the bad ones too. Keep the rows whose verdict is "
    "true, in a file without that column"
)
MEDIA = (
    "conversations about pictures, sounds or films: only text is learned here. If the text makes sense alone, bring a file without those "
    "columns and parts"
)
PROMPT_ALONE = (
    "prompts without answers: nothing to learn an answer from. If the answers stand in a column of another name, name the columns: "
    "prompt=COLUMN,answer=COLUMN"
)
ANSWER_ALONE = "answers without prompts. If the prompts stand in a column of another name, name the columns: prompt=COLUMN,answer=COLUMN"
TEXT_ALONE = (
    "bare text without prompts, as for pre-training: here only answers are learned, so each row must say what is asked and what is "
    "answered. Where the text holds whole conversations, bring them as lists of messages"
)
QUESTIONS_ALONE = "prompts without answers: no message in it is an assistant's. Bring the answers too; prompts alone are for reinforcement learning"

Kinds = tuple[tuple[Callable[[Row], bool], str], ...]
ALWAYS: Kinds = ((is_ranked, RANKED), (is_judged, JUDGED), (has_media, MEDIA))
WITHOUT_LAYOUT: Kinds = (
    (has_prompt_alone, PROMPT_ALONE),
    (has_answer_alone, ANSWER_ALONE),
    (has_text_alone, TEXT_ALONE),
)
