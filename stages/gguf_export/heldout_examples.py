"""The held-out rows that a GGUF file is measured on: ids, and the answers in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.arrow.tables import read_arrow
from stages.contracts.tokens import NOT_TRAINED, SPLITS
from stages.core.errors import StageError


@dataclass(frozen=True)
class Example:
    """One row of data/tokens."""

    row_id: str
    ids: list[int]
    labels: list[int]
    """The same ids where they are an assistant's, else NOT_TRAINED."""

    def prediction_mask(self) -> NDArray[np.bool_]:
        """The positions after which a labelled token comes; shape [tokens]."""
        mask = np.zeros(len(self.ids), dtype=np.bool_)
        mask[:-1] = np.array(self.labels[1:]) != NOT_TRAINED
        return mask

    def targets(self) -> NDArray[np.int64]:
        """The labelled tokens that `prediction_mask` leads to, in order."""
        labels = np.array(self.labels[1:], dtype=np.int64)
        targets: NDArray[np.int64] = labels[labels != NOT_TRAINED]
        return targets

    def spans(self) -> list[tuple[int, int]]:
        """Where the assistant's turns begin and end (exclusive), the end-of-turn within; none at the very start, which nothing leads to."""
        labelled = np.array([False, *(label != NOT_TRAINED for label in self.labels), False])
        edges = np.flatnonzero(labelled[1:] != labelled[:-1])
        return [(int(begin), int(end)) for begin, end in zip(edges[::2], edges[1::2], strict=True) if begin > 0]


@dataclass(frozen=True)
class HeldoutQuestion:
    """One assistant's turn to be answered, given the true history."""

    row_id: str
    prompt: list[int]
    gold: list[int]
    """The true answer without what ends it."""
    limit: int
    """Tokens of the true answer with what ends it: nothing further is compared."""
    example: int
    """Index of the row."""
    offset: int
    """Of the answer's first token among the row's labelled tokens (`Example.targets`)."""


@dataclass(frozen=True)
class Ending:
    """What ends an assistant's turn in the data."""

    controls: frozenset[int]
    """Control tokens, any of which does (a call may end with another than an answer); empty: a text does."""
    text: tuple[int, ...] = ()
    """The tokens of that text, where the vocabulary has no token for it."""

    def length(self, answer: Sequence[int]) -> int:
        """How many tokens at the end of an answer are what ends it; 0: it is cut off, or its end is not trained (gpt-oss, before another turn)."""
        if self.controls:
            return int(bool(answer) and answer[-1] in self.controls)
        return len(self.text) if tuple(answer[-len(self.text) :]) == self.text else 0


def read_examples(tokens: Path, rows: int) -> tuple[str, list[Example]]:
    """The split that rows were taken from, and its first `rows` rows with a label: of `heldout`, or of `train` where nothing is held out.

    Raises StageError where neither has any.
    """
    for split in ("heldout", "train"):
        table = read_arrow(tokens / SPLITS[split])
        found: list[Example] = []
        for batch in table.to_batches(max_chunksize=256):
            columns = batch.to_pydict()
            for row_id, ids, labels in zip(columns["row_id"], columns["input_ids"], columns["labels"], strict=True):
                if len(found) < rows and any(label != NOT_TRAINED for label in labels[1:]):
                    found.append(Example(row_id, ids, labels))
            if len(found) == rows:
                break
        if found:
            return split, found
    raise StageError(f"{tokens.name} holds no row with an answer in it, so an exported file could not be checked")


def find_ending(
    examples: Sequence[Example], control: frozenset[int], closing: Sequence[int], stop: int | None
) -> Ending:
    """What ends the answers.

    Args:
        examples: at least one.
        control: ids of the tokenizer's added tokens.
        closing: ids of the text that the template writes after an answer; empty where it is not known.
        stop: the control token that ends a turn; None: the vocabulary has none, a text does.

    Raises StageError where the answers end in nothing that could stop a model.
    """
    answers = [example.ids[begin:end] for example in examples for begin, end in example.spans()]
    if stop is not None:
        # what stands within answers ends none, though one may be cut off behind it: a thought's end
        within = {token for answer in answers for token in answer[:-1]}
        return Ending((control & {answer[-1] for answer in answers}) - within | {stop})
    for length in range(len(closing), 0, -1):
        ending = list(closing[:length])
        if all(answer[-length:] == ending for answer in answers):
            return Ending(frozenset(), tuple(ending))
    raise StageError(
        "the labelled answers of data/tokens end with no common token or text, so nothing would stop the exported model; "
        "the chat template must close an assistant's turn, and that end must be labelled (stage template)"
    )


def questions(examples: Sequence[Example], ending: Ending, count: int) -> list[HeldoutQuestion]:
    """The first `count` assistant's turns of the rows, as questions."""
    asked: list[HeldoutQuestion] = []
    for index, example in enumerate(examples):
        offset = 0
        for begin, end in example.spans():
            answer = example.ids[begin:end]
            gold = answer[: len(answer) - ending.length(answer)]
            limit = len(gold) + max(1, len(ending.text))
            asked.append(HeldoutQuestion(example.row_id, example.ids[:begin], gold, limit, index, offset))
            offset += len(answer)
    return asked[:count]
