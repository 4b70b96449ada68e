"""Which rows of the sources are taken: so many of each as weights and caps say, chosen by hash of the record; pure functions.

The rows with the smallest hashes are taken. So the choice does not depend on the order of the rows; a larger sample holds all
that a smaller one held; and of a dataset that grew by a tenth, about nine tenths of a sample are what they were.
"""

import hashlib
from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]
HASH_BYTES = 8


def hashes_of(records: Iterable[bytes]) -> Hashes:
    """A 64-bit hash of each record, in order: 8 bytes of memory for each row."""
    found = bytearray()
    for record in records:
        found += hashlib.blake2b(record, digest_size=HASH_BYTES).digest()
    return np.frombuffer(found, "<u8")


def shares(rows: Sequence[int], caps: Sequence[int | None], weights: Sequence[float | None]) -> list[int]:
    """How many rows of each source are taken.

    Args:
        rows: how many each has.
        caps: the most that may be taken of each; None: all.
        weights: the sources' parts in the mixture, relative to each other; None for all: everything that the caps leave.

    Returns:
        In the proportion of the weights, as many as the scarcest source allows, rounded, but at least one of each source that has rows.
    """
    most = [count if cap is None else min(count, cap) for count, cap in zip(rows, caps, strict=True)]
    # as people write them: 0.1 is a tenth, not the nearest binary fraction
    parts = [Fraction(str(weight)) for weight in weights if weight is not None]
    if not parts or not all(most):
        return most
    size = min(count / part for count, part in zip(most, parts, strict=True))
    return [max(1, round(part * size)) for part in parts]


def choose_smallest(hashes: Hashes, count: int) -> Mask:
    """A mask of exactly `count` rows, those with the smallest hashes; of equal records, the first ones."""
    if count >= len(hashes):
        return np.ones(len(hashes), np.bool_)
    threshold = np.partition(hashes, count - 1)[count - 1]
    mask: Mask = hashes < threshold
    ties = np.flatnonzero(hashes == threshold)
    mask[ties[: count - int(mask.sum())]] = True
    return mask
