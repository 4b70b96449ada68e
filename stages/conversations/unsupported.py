"""Datasets that are recognized and that no answers can be learned from as they are: why, and what to do. Pure functions over first rows."""

from collections.abc import Callable, Sequence

from stages.conversations.dialects import Dialect, Row, parse_list
from stages.conversations.layouts import find_dialects
from stages.conversations.layouts_chat import CHAT_COLUMNS
from stages.conversations.layouts_tree import Trees, is_tree_dialect
from stages.conversations.message_text import has_media_column, has_media_part
from stages.conversations.roles import CALL, role_of
from stages.conversations.row_rules import Rejected

PROMPTS = frozenset({"prompt", "prompts", "question", "questions", "query", "instruction", "input", "problem"})
ANSWERS = frozenset({"completion", "completions", "response", "answer", "output", "target"})
TEXTS = frozenset({"text", "content", "document"})
WORSE = frozenset({"rejected", "rejected_response", "rejected_messages"})
TWO_ANSWERS = tuple(
    (f"{name}{first}", f"{name}{second}")
    for name in ("response", "answer", "completion", "output", "conversation")
    for first, second in (("1", "2"), ("_1", "_2"), ("_0", "_1"), ("_a", "_b"))
)
VERDICTS = frozenset({"label", "labels", "kto_tag"})
CHOICES = ("choices", "options", "answer_choices")
CHOSEN = ("answer", "answerKey", "answer_key", "answer_index", "label", "output", "response", "correct")
PARENTS = ("parent_id", "parent_message_id", "reply_to", "in_reply_to")
SPEAKERS = ("role", "from", "author", "speaker")
SAID = ("text", "content", "value", "message", "body")


def refusal(rows: Sequence[Row], dialect: Dialect | None, trees: Trees = "best_ranked") -> str | None:
    """Why most of the rows cannot be learned from, and what to do; None if they can be, or if nothing is known of them.

    Args:
        rows: the first rows of a source; no column of theirs is named by the user.
        dialect: how they would be read; None: no dialect fits them.
        trees: which path is taken through a tree of replies.
    """
    if dialect and trees == "refuse" and is_tree_dialect(dialect):
        return TREES
    for holds, says in ALWAYS if dialect else (*ALWAYS, *WITHOUT_LAYOUT):
        if sum(map(holds, rows)) * 2 > len(rows):
            return says
    if dialect and rows and all(asks_only(row, dialect) for row in rows):
        return QUESTIONS_ALONE
    return None


def is_ranked(row: Row) -> bool:
    """Whether the row has a better and a worse answer."""
    return not WORSE.isdisjoint(row)


def has_two_answers(row: Row) -> bool:
    """Whether the row has two answers to one question."""
    return any(first in row and second in row for first, second in TWO_ANSWERS)


def is_multiple_choice(row: Row) -> bool:
    """Whether the row's answer is the number or letter of one of several that stand in a column of their own."""
    if not any(isinstance(parse_list(row.get(name)), list | dict) for name in CHOICES):
        return False
    chosen = [row[name] for name in CHOSEN if row.get(name) is not None]
    return any(isinstance(value, int) or (isinstance(value, str) and len(value.strip()) == 1) for value in chosen)


def is_reply(row: Row) -> bool:
    """Whether the row is one message that names the one it answers."""
    return any(name in row for name in PARENTS) and is_message(row)


def is_message(row: Row) -> bool:
    """Whether the row is one message with who says it."""
    return any(name in row for name in SPEAKERS) and any(isinstance(row.get(name), str) for name in SAID)


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
TWO = (
    "preference data (two answers to one question): here answers are learned, not preferences. To learn one of them, name the columns: "
    "prompt=COLUMN,answer=COLUMN"
)
MULTIPLE_CHOICE = (
    "multiple-choice questions: the answer is the number or letter of a choice that the question does not show. Bring a file in which the "
    "question lists its choices and the answer is written out"
)
REPLIES = (
    "messages one a row, each with the message that it answers: a conversation is a path through several rows, and rows are read one by one "
    "here. Bring the file of whole trees (OASST has one beside it: its name ends in .trees.jsonl.gz), or one row a conversation with a list "
    "of messages"
)
MESSAGES_ALONE = (
    "messages one a row: a conversation is several rows, and rows are read one by one here. Bring one row a conversation, with a list of "
    "role/content messages in it"
)
TREES = (
    "trees of replies, and `standardize.trees` is refuse. With best_ranked the reply that people ranked best is taken at each message, with "
    "longest the longest branch"
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
ALWAYS: Kinds = (
    (is_ranked, RANKED),
    (is_judged, JUDGED),
    (has_media, MEDIA),
    (is_multiple_choice, MULTIPLE_CHOICE),
)
WITHOUT_LAYOUT: Kinds = (
    (has_two_answers, TWO),
    (is_reply, REPLIES),
    (is_message, MESSAGES_ALONE),
    (has_prompt_alone, PROMPT_ALONE),
    (has_answer_alone, ANSWER_ALONE),
    (has_text_alone, TEXT_ALONE),
)
