"""Which conversations belong together, so that all of them are trained or all held out; pure functions.

Facts that are asked in several wordings are such a group: where one wording is trained, another measures what was memorized.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import orjson

from stages.contracts.messages import ID_LENGTH
from stages.conversations.canonical import Conversation, parse_record
from stages.conversations.canonical_message import calls_of, is_train
from stages.conversations.flags import reduce_text
from stages.conversations.row_rules import Rejected
from stages.core.errors import StageError

ANSWER = "answer"
"""In place of a column: what the assistant says."""
ROWS_TO_LOOK = 1_000
"""First rows of a source, of which one must have the column."""
COLUMNS = 12
"""Columns that are named where it is missing."""


def group_of(found: Conversation, record: bytes, group_by: str | None) -> str:
    """What the split of a conversation follows from, 32 hex characters: the hash of its group's value; its own id where it has no group.

    Args:
        found: the conversation.
        record: its row of data/raw.
        group_by: as in standardize's params.
    """
    if group_by is None:
        return found.row_id
    value = list(trained_answers(found)) if group_by == ANSWER else parse_record(record).get(group_by)
    if value is None:
        return found.row_id
    written = json.dumps(value, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(written.encode()).hexdigest()[:ID_LENGTH]


def trained_answers(found: Conversation) -> Iterator[str]:
    """What the assistant says and may be trained on, reduced so that case, white space and signs at the edges make no difference; with its calls."""
    for message in found.messages:
        if message[0] == "assistant" and is_train(message):
            calls = calls_of(message)
            yield reduce_text(message[1]) + (orjson.dumps(calls).decode() if calls else "")


def check_group_column(sources: Sequence[tuple[str, Iterable[bytes]]], group_by: str | None) -> None:
    """Raise StageError where no row of a source has the column that its conversations are grouped by.

    Args:
        sources: the name of each source, and its records.
        group_by: as in standardize's params.
    """
    if group_by in (None, ANSWER):
        return
    for name, records in sources:
        columns: dict[str, None] = {}
        looked = 0
        for looked, record in enumerate(islice(records, ROWS_TO_LOOK), start=1):  # noqa: B007 - how many there were
            try:
                columns |= dict.fromkeys(parse_record(record))
            except Rejected:
                continue
        if columns and group_by not in columns:
            named = ", ".join(f"`{column}`" for column in [*columns][:COLUMNS]) + " ..." * (len(columns) > COLUMNS)
            raise StageError(
                f"standardize.group_by: no row of {name} has the column `{group_by}` (looked at: the first {looked}). It has {named}: name one of these, or "
                f"`{ANSWER}` for what the assistant says, or null for no groups"
            )
