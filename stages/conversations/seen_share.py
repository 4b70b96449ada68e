"""How much of what is held out stands in training, too: a held-out row whose answer was trained measures memory.

Answers are compared by a hash that the workers make and that travels beside the rows; words of questions are looked at here, up to a size, so that
a large dataset costs no more than a small one: what is said of them then is a lower bound, and said to be one.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stages.contracts import messages as contract
from stages.conversations.canonical import Conversation
from stages.conversations.canonical_message import Message, calls_of, is_train
from stages.conversations.flags import reduce_text

ANSWERS = pa.field("answers", pa.list_(pa.int64()))
"""Beside the columns of data/messages while rows are judged: a hash of each different answer of the row, equal for equal ones in one run alone."""
SCHEMA = contract.SCHEMA.append(ANSWERS)

LONGEST_REDUCED = 200
"""Characters of an answer up to which case, white space and signs at the edges make no difference; longer ones are compared letter by letter."""
QUESTION_CHARACTERS = 2_000_000
"""Of the questions of each split that are looked at: some 7,000 rows of FineTome."""

ALL = 0.9995
"""From this share on all are seen, as it is written."""
HALF = 0.5
"""From this share on it is said what that means."""
LABELS = 20
"""Rows a different answer, from which answers are labels: a few that many rows share, and that a held-out row must share too."""


def hash_answers(found: Sequence[Conversation]) -> pa.Array:
    """The column ANSWERS of some conversations."""
    flat: list[int] = []
    ends = [0]
    for conversation in found:
        said = [hash_answer(one) for one in conversation.messages if one[0] == "assistant" and is_train(one)]
        flat += said if len(said) < 2 else set(said)  # noqa: PLR2004
        ends.append(len(flat))
    return pa.ListArray.from_arrays(pa.array(np.array(ends, np.int32)), pa.array(np.array(flat, np.int64)))


def hash_answer(message: Message) -> int:
    """A hash of what an assistant says, with its calls. Of 64 bits, and another in another run: it is compared and never written down."""
    text: str = message[1]
    said = text if len(text) > LONGEST_REDUCED else reduce_text(text)
    calls = calls_of(message)
    return hash((said, str(calls))) if calls else hash(said)


class SeenShare:
    """What is counted of the kept rows. Memory: 12 bytes an answer, and the words of a few thousand questions."""

    def __init__(self) -> None:
        self.answers: list[NDArray[np.int64]] = []
        self.rows: list[NDArray[np.int32]] = []
        """The row of each answer, by its place among those that are written."""
        self.heldout: list[NDArray[np.bool_]] = []
        """By row."""
        self.count = 0
        self.words: dict[str, set[str]] = {split: set() for split in contract.SPLITS}
        """The different words of the questions of a split."""
        self.left = dict.fromkeys(contract.SPLITS, QUESTION_CHARACTERS)
        """Characters of questions that are still to be looked at; above 0 where all were."""

    def watch(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The same rows without ANSWERS, counted as they pass."""
        for batch in batches:
            answers = batch[ANSWERS.name]
            heldout = np.asarray(batch["split"].to_numpy(zero_copy_only=False) == "heldout", np.bool_)
            # a copy: a view would keep the whole batch, which came as one block of memory
            self.answers.append(answers.flatten().to_numpy().copy())
            rows = np.arange(self.count, self.count + batch.num_rows, dtype=np.int32)
            self.rows.append(np.repeat(rows, answers.value_lengths().to_numpy()))
            self.heldout.append(heldout)
            self.count += batch.num_rows
            for split, mask in zip(contract.SPLITS, (~heldout, heldout), strict=True):
                if mask.any():
                    self.add_words(batch["messages"], mask, split)
            yield batch.select(contract.SCHEMA.names)

    def add_words(self, messages: pa.ListArray, mask: NDArray[np.bool_], split: str) -> None:
        """Add the words of the questions of a split's rows, as far as they are to be looked at."""
        if self.left[split] <= 0:
            return
        from stages.dedup.shingles import normalize_text

        flat = messages.filter(pa.array(mask)).flatten()
        questions = flat.field("content").filter(pc.equal(flat.field("role"), "user"))
        for question in questions.to_pylist():
            if self.left[split] <= 0:
                return
            self.words[split].update(normalize_text(question[: self.left[split]]).split())
            self.left[split] -= len(question)

    def find_common_answers(self, least_share: float, least_rows: int) -> NDArray[np.int32]:
        """The rows, by their place among those that are written, with an answer that more than a share of all rows have, and some rows at least."""
        if not self.count:
            return np.zeros(0, np.int32)
        different, rows = np.unique(np.concatenate(self.answers), return_counts=True)
        common = different[(rows > least_share * self.count) & (rows >= least_rows)]
        if not len(common):
            return np.zeros(0, np.int32)
        return np.unique(np.concatenate(self.rows)[np.isin(np.concatenate(self.answers), common)])

    def summarize(self, group_by: str | None) -> dict[str, Any]:
        """`seen` of data/messages' summary.json; `group_by` as in standardize's params."""
        nothing: list[NDArray[Any]] = [np.zeros(0, np.int64)]
        answers = np.concatenate(nothing + self.answers)
        of_heldout = np.concatenate([np.zeros(0, np.bool_), *self.heldout])[np.concatenate(nothing + self.rows)]
        trained, heldout = np.unique(answers[~of_heldout]), answers[of_heldout]
        seen = int(np.isin(heldout, trained).sum())
        words = len(self.words["heldout"] & self.words["train"])
        found = {
            "answers": {
                "heldout": len(heldout),
                "seen": seen,
                "share": share(seen, len(heldout)),
                "different_in_train": len(trained),
            },
            "question_words": {
                "heldout": len(self.words["heldout"]),
                "seen": words,
                "share": share(words, len(self.words["heldout"])),
                "all_read": min(self.left.values()) > 0,
            },
        }
        rows_an_answer = (len(answers) - len(heldout)) / len(trained) if len(trained) else 0.0
        return {**found, "says": describe_seen(found, rows_an_answer, group_by)}


def share(part: int, whole: int) -> float | None:
    """A part of a whole; null of nothing."""
    return part / whole if whole else None


def describe_seen(found: dict[str, dict[str, Any]], rows_an_answer: float, group_by: str | None) -> str:
    """What both shares say, for a person; empty where nothing is held out.

    Args:
        found: `seen` of summary.json.
        rows_an_answer: training rows that share an answer, in the mean.
        group_by: as in standardize's params.
    """
    answers, words = found["answers"], found["question_words"]
    if not answers["heldout"]:
        return ""
    said = f"{answers['seen']} of {answers['heldout']} held-out answers ({answers['share']:.1%}) also stand in training"
    if words["share"] is not None:
        least = "" if words["all_read"] else " or more"
        said += f", and {words['share']:.1%}{least} of the different words of held-out questions stand in training questions"
    if answers["share"] < HALF:
        return said
    if rows_an_answer >= LABELS:
        return f"{said}; they are labels: {answers['different_in_train']} different answers, each of {rows_an_answer:.0f} training rows in the mean"
    if answers["share"] >= ALL:
        measured = "held-out is 100 % seen: these figures measure memory, unless answers follow from a text beside the question"
    else:
        measured = f"held-out is {answers['share']:.1%} seen: so much of these figures may be memory"
    advice = "" if group_by else " (standardize.group_by: answer holds out all rows of an answer, or none)"
    return f"{said}; {measured}{advice}"
