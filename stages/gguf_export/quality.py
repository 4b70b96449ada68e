"""How far a GGUF file's answers are from the merged model's and from the true ones. Measured here, judged by `audit`."""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.contracts.gguf import FileQuality
from stages.core.errors import StageError
from stages.gguf_export.heldout_examples import Ending, Example, HeldoutQuestion
from stages.gguf_export.reference import MergedReference
from stages.llama_cpp.runtime import Model

log = logging.getLogger("retune")

DIGITS = 6
"""Of a figure: the last ones of a float depend on the number of threads."""
VALUES_AT_ONCE = 1 << 22
"""Logits in double precision at once: 32 MiB. All those of one long row, with a vocabulary of 128,000, are gigabytes."""


@dataclass(frozen=True)
class Divergence:
    """Sums over labelled tokens."""

    tokens: int
    kl: float
    """Kullback-Leibler divergence of the file's distribution from the merged model's, in nats."""
    same_top: int
    """Tokens where both find the same one most likely."""
    loss: float
    """Negative log-likelihood of the true tokens, in nats."""
    rows: tuple[tuple[int, float], ...]
    """(tokens, kl) of each row."""


def measure_divergence(model: Model, examples: Sequence[Example], reference: MergedReference) -> Divergence:
    """Run the rows through the file and compare with the merged model, token by labelled token.

    Raises StageError where the file's vocabulary has another size than the merged model's logits, or its logits are no numbers.
    """
    total = Divergence(0, 0.0, 0, 0.0, ())
    for index, example in enumerate(examples):
        theirs, ours = reference.logits_of(index), model.logits(example.ids, example.prediction_mask())
        if theirs.shape != ours.shape:
            raise StageError(
                f"{model.name} has a vocabulary of {ours.shape[1]}, the merged model one of {theirs.shape[1]}; merge again"
            )
        if not np.isfinite(ours).all():
            raise StageError(f"{model.name} gives logits that are no finite numbers on row {example.row_id}")
        targets, before = example.targets(), total
        for part in parts(theirs.shape):
            true, got = log_softmax(theirs[part]), log_softmax(ours[part])
            total = Divergence(
                tokens=total.tokens + len(true),
                kl=total.kl + float((np.exp(true) * (true - got)).sum()),
                same_top=total.same_top + int((true.argmax(axis=1) == got.argmax(axis=1)).sum()),
                loss=total.loss - float(got[np.arange(len(got)), targets[part]].sum()),
                rows=total.rows,
            )
        row = (total.tokens - before.tokens, total.kl - before.kl)
        total = replace(total, rows=(*total.rows, row))
    return total


def reference_loss(examples: Sequence[Example], reference: MergedReference) -> float:
    """The merged model's own negative log-likelihood of the true tokens, summed, in nats."""
    loss = 0.0
    for index, example in enumerate(examples):
        logits, targets = reference.logits_of(index), example.targets()
        for part in parts(logits.shape):
            wanted = targets[part]
            loss -= float(log_softmax(logits[part])[np.arange(len(wanted)), wanted].sum())
    return loss


def answer_questions(model: Model, asked: Sequence[HeldoutQuestion]) -> list[list[int]]:
    """The file's greedy answers, with what ends them, at most each question's limit."""
    return [list(model.generate(question.prompt, question.limit)) for question in asked]


def count_exact(
    given: Sequence[Sequence[int]], asked: Sequence[HeldoutQuestion], ending: Ending, ends: frozenset[int]
) -> int:
    """How many answers are the true ones, token for token, and end there."""
    return sum(
        strip_ending(answer, ending, ends) == question.gold and len(answer) > len(question.gold)
        for answer, question in zip(given, asked, strict=True)
    )


def strip_ending(answer: Sequence[int], ending: Ending, ends: frozenset[int]) -> list[int]:
    """An answer without what ends it."""
    if answer and answer[-1] in ends:
        return list(answer[:-1])
    return list(answer[: len(answer) - ending.length(answer)])


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log-probabilities, in double precision; shape as given."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def parts(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of positions that bound the memory, of logits of shape [positions, vocabulary]."""
    step = max(1, VALUES_AT_ONCE // shape[1])
    for first in range(0, shape[0], step):
        yield slice(first, first + step)


def mean_error(rows: Sequence[tuple[int, float]]) -> float | None:
    """Standard error of a mean over tokens whose rows are the independent draws; None with a single row.

    Args:
        rows: (tokens, sum over them) of each row.
    """
    count, tokens = len(rows), sum(size for size, _ in rows)
    if count < 2:  # noqa: PLR2004 - one row has no spread
        return None
    mean = sum(total for _, total in rows) / tokens
    spread = sum((total - mean * size) ** 2 for size, total in rows) * count / (count - 1)
    return round_figure(math.sqrt(spread) / tokens)


def perplexity(loss: float, tokens: int) -> float:
    """The exponential of the mean loss; bounded, since JSON has no infinity."""
    return round_figure(math.exp(min(loss / tokens, 700.0)))


def round_figure(value: float) -> float:
    """A figure with DIGITS significant digits."""
    return float(f"{value:.{DIGITS}g}")


def log_quality(path: Path, quality: FileQuality) -> None:
    """A file's figures in the log."""
    error = quality["kl_error"]
    log.info(
        "%s: %.1f MB, KL %.2g%s, top-1 agreement %.1f %%",
        path.name,
        path.stat().st_size / 1e6,
        quality["kl"],
        "" if error is None else f" \N{PLUS-MINUS SIGN} {2 * error:.2g}",
        100 * quality["top_1_agreement"],
    )
