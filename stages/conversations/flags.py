"""What is told of rows that break no rule, by what stands in them: no answer, HTML, personal data, secrets; pure functions.

A flag's name and the row's place are all that leaves here, never a text.
"""

import string

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stages.conversations.html_left import find_html
from stages.conversations.personal_data import find_ats, find_email_addresses, find_phone_numbers, find_secret_keys
from stages.conversations.row_rules import (
    ANSWER_REPEATS_QUESTION,
    EMAIL_ADDRESS,
    FLAGS,
    HTML_LEFT_IN,
    PHONE_NUMBER,
    PLACEHOLDER_ANSWER,
    SECRET_KEY,
)
from stages.conversations.text_bytes import TextBytes, view_bytes

WORDS = (
    "n/a",
    "n.a",
    "n\\a",
    "na",
    "nan",
    "#n/a",
    "nil",
    "null",
    "none",
    "undefined",
    "todo",
    "to do",
    "tbd",
    "t.b.d",
    "tba",
    "tbc",
    "fixme",
    "xxx",
)
PHRASES = (
    "placeholder",
    "no answer",
    "not available",
    "not applicable",
    "to be determined",
    "to be done",
    "lorem ipsum",
)
SIGNS = ("-", "--", "---", "\u2013", "\u2014", "_", "__", "___", ".", "..", "...", "\u2026", "?", "??", "???")
PLACEHOLDERS = frozenset((*WORDS, *PHRASES, *SIGNS))
LONGEST_PLACEHOLDER = 24
"""Bytes of an answer that is looked at, at most: brackets and points around the word are left out."""
BRACKETS = "[](){}<>*\"'`:!"

SHORTEST_REPEATED = 8
"""Characters from which a question that is said again is no greeting."""
EDGES = 8
"""Bytes by which the lengths of two texts that say the same differ at most."""

PUNCTUATION = string.punctuation + string.whitespace


def find_flags(messages: pa.ListArray) -> list[tuple[int, list[str]]]:
    """The rows of a batch that are flagged, ascending, each with its flags in the order of FLAGS.

    Args:
        messages: the column `messages` of data/messages.
    """
    flat = messages.flatten()
    rows = np.repeat(np.arange(len(messages)), messages.value_lengths().to_numpy())
    is_answer = np.asarray(pc.equal(flat.field("role"), "assistant").to_numpy(zero_copy_only=False), np.bool_)
    is_question = np.asarray(pc.equal(flat.field("role"), "user").to_numpy(zero_copy_only=False), np.bool_)
    calls = flat.field("tool_calls")
    said = view_bytes(flat.field("content"))
    without_calls = is_answer & np.asarray(calls.is_null().to_numpy(zero_copy_only=False), np.bool_)
    found: dict[str, set[int]] = {flag: set() for flag in FLAGS}
    found[PLACEHOLDER_ANSWER] |= find_placeholders(said, np.flatnonzero(without_calls))
    found[ANSWER_REPEATS_QUESTION] |= find_repeated_questions(said, rows, is_question, is_answer)
    found[HTML_LEFT_IN] |= {text for text in find_html(said) if is_answer[text] or is_question[text]}
    thoughts = flat.field("reasoning")
    for texts in [said, *(view_bytes(column) for column in (calls, thoughts) if column.null_count < len(column))]:
        digits, ats = texts.find_digits(), find_ats(texts)
        found[EMAIL_ADDRESS] |= find_email_addresses(texts, ats)
        found[PHONE_NUMBER] |= find_phone_numbers(texts, digits)
        found[SECRET_KEY] |= find_secret_keys(texts, digits, ats)
    by_row: dict[int, list[str]] = {}
    for flag, messages_with_it in found.items():
        for row in {int(rows[message]) for message in messages_with_it}:
            by_row.setdefault(row, []).append(flag)
    return sorted(by_row.items())


def find_placeholders(said: TextBytes, answers: NDArray[np.int64]) -> set[int]:
    """The answers that are none.

    Args:
        said: the texts of the messages.
        answers: those that are answers in words.
    """
    short = answers[np.diff(said.ends)[answers] <= LONGEST_PLACEHOLDER]
    return {index for index in short.tolist() if is_placeholder(said.text(index))}


def is_placeholder(answer: str) -> bool:
    """Whether an answer says that there is none."""
    bare = answer.strip().casefold()
    return bare in PLACEHOLDERS or bare.strip(BRACKETS + ".").strip() in PLACEHOLDERS


def find_repeated_questions(
    said: TextBytes, rows: NDArray[np.int64], is_question: NDArray[np.bool_], is_answer: NDArray[np.bool_]
) -> set[int]:
    """The answers that say the question before them again; case, white space and signs at the edges make no difference."""
    lengths = np.diff(said.ends)
    pair = is_question[:-1] & is_answer[1:] & (rows[:-1] == rows[1:])
    alike = (np.abs(lengths[:-1] - lengths[1:]) <= EDGES) & (lengths[:-1] >= SHORTEST_REPEATED)
    found = set()
    for index in np.flatnonzero(pair & alike).tolist():
        question = reduce_text(said.text(index))
        if len(question) >= SHORTEST_REPEATED and question == reduce_text(said.text(index + 1)):
            found.add(index + 1)
    return found


def reduce_text(text: str) -> str:
    """A text by which two that say the same are told: case, white space and signs at the edges make no difference."""
    return " ".join(text.casefold().split()).strip(PUNCTUATION)


def list_flags(flagged: list[tuple[int, list[str]]], rows: int) -> pa.Array:
    """The flags as the column of data/messages: a list by row, null where there is none."""
    found: list[list[str] | None] = [None] * rows
    for row, flags in flagged:
        found[row] = flags
    return pa.array(found, pa.list_(pa.string()))
