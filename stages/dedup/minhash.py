"""Conversations that nearly repeat another: MinHash sketches (rensa) and a banded search among them (numpy); pure functions.

A sketch holds, for each of 128 orders of all possible shingles (runs of three words), the text's first shingle in that order. The
part of equal values in two sketches estimates the Jaccard similarity of their shingles: 0.9 is about 2 % of the words replaced
here and there, 0.8 about 4 %, 0.6 about 10 %. Rows that agree in a whole band of values are compared, others never.

The search follows the order of rows and depends on no chunk, worker or hash seed. In a band a row is compared with at most COMPARED
rows, so that a boilerplate text that a million rows share cannot make it quadratic; such a bucket may then hide a pair.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from stages.dedup.shingles import MULTIPLIER, mix_bits, ngrams, word_hashes

PERMUTATIONS = 128
SHINGLE = 3
"""Words in a shingle."""

SEED = 42
RECALL = 0.98
"""Part of the pairs exactly at the threshold that agree in some band: more needs shorter bands, and so more comparisons."""

COMPARED = 8
"""Rows of one bucket that a row is compared with: a boilerplate text that a million rows share must not cost a million comparisons."""

LEAF = 256
"""Rows among which each is compared with each."""

PAIRS_AT_A_TIME = 65_536
"""Pairs compared at a time: 32 MB."""

Sketches = NDArray[np.uint16]
Indices = NDArray[np.int64]


def sketch_texts(texts: Sequence[str]) -> Sketches:
    """One sketch for each text, (n, PERMUTATIONS): 256 bytes a row, the low half of rensa's 32-bit values.

    A text of fewer than SHINGLE words is one shingle. Call it in worker processes, a few thousand texts at a time: rensa
    starts threads of its own at its first large call, so a process that has called it must not fork afterwards.
    """
    from rensa import RMinHash

    if not len(texts):
        return np.zeros((0, PERMUTATIONS), np.uint16)
    shingles, offsets = ngrams(*word_hashes(texts), SHINGLE)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(shingles, offsets.astype(np.uint64), PERMUTATIONS, SEED)
    return np.array(matrix.to_rows(), np.uint32).astype(np.uint16)


def find_near_heldout(sketches: Sketches, heldout: NDArray[np.bool_], threshold: float) -> Indices:
    """For each training row the index of a held-out row that it nearly repeats, -1 where there is none and for held-out rows.

    Args:
        sketches: (n, PERMUTATIONS), in row order.
        heldout: (n,), the rows that are held out.
        threshold: estimated Jaccard similarity from which a row nearly repeats another, above 0 to 1.
    """
    of = np.full(len(sketches), -1, np.int64)
    train = np.flatnonzero(~heldout)
    of[train] = find_near(sketches, train, np.flatnonzero(heldout), threshold)
    return of


def find_near_duplicates(sketches: Sketches, among: NDArray[np.bool_], threshold: float) -> Indices:
    """For each row the index of an earlier, kept row that it nearly repeats, else -1; a row with such an index is not kept.

    Args:
        sketches: (n, PERMUTATIONS), in row order.
        among: (n,), the rows that take part; the others get -1 and nothing repeats them.
        threshold: as for near_heldout.
    """
    of = np.full(len(sketches), -1, np.int64)
    rows = np.flatnonzero(among)
    settle(sketches, rows[share_a_band(sketches, rows, threshold)], of, threshold)
    return of


def settle(sketches: Sketches, rows: Indices, of: Indices, threshold: float) -> None:
    """First come, first kept: fill `of` for `rows`, in ascending order, as if each were compared with all kept ones before it.

    The first half is settled, then the second half is compared with what is kept of it, then what is left of that is settled:
    rows that repeat a kept one leave at once, so that a cluster of any size costs each of its rows a few comparisons.
    """
    if len(rows) <= LEAF:
        for at, row in enumerate(rows):
            if of[row] < 0:
                later = rows[at + 1 :][of[rows[at + 1 :]] < 0]
                of[later[are_similar(sketches, later, np.broadcast_to(row, later.shape), threshold)]] = row
        return
    first, second = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    settle(sketches, first, of, threshold)
    of[second] = find_near(sketches, second, first[of[first] < 0], threshold)
    settle(sketches, second[of[second] < 0], of, threshold)


def find_near(sketches: Sketches, asked: Indices, answers: Indices, threshold: float) -> Indices:
    """For each of the rows `asked` one of the rows `answers` that it nearly repeats, else -1."""
    of = np.full(len(asked), -1, np.int64)
    if not len(answers):
        return of
    bands = zip(band_keys(sketches, asked, threshold), band_keys(sketches, answers, threshold), strict=True)
    for band, (keys, answer_keys) in enumerate(bands):
        order = np.argsort(answer_keys, kind="stable")
        first = np.searchsorted(answer_keys, keys, side="left", sorter=order)
        size = np.searchsorted(answer_keys, keys, side="right", sorter=order) - first
        for k in range(COMPARED):
            # other members of a large bucket in each band, so that all bands together see more of it
            left = np.flatnonzero((size > k) & (of < 0))
            others = answers[order[first[left] + (band * COMPARED + k) % size[left]]]
            alike = are_similar(sketches, asked[left], others, threshold)
            of[left[alike]] = others[alike]
    return of


def share_a_band(sketches: Sketches, rows: Indices, threshold: float) -> NDArray[np.bool_]:
    """For each of `rows` whether it agrees with another of them in some band: in most datasets few do."""
    shared = np.zeros(len(rows), np.bool_)
    for keys in band_keys(sketches, rows, threshold):
        order = np.argsort(keys, kind="stable")
        equal = keys[order[1:]] == keys[order[:-1]]
        shared[order[1:][equal]] = True
        shared[order[:-1][equal]] = True
    return shared


def band_keys(sketches: Sketches, rows: Indices, threshold: float) -> Iterator[NDArray[np.uint64]]:
    """For each band a key for each of `rows`; rows that agree in the band have the same."""
    width = band_width(threshold)
    for start in range(0, PERMUTATIONS - width + 1, width):
        keys = np.zeros(len(rows), np.uint64)
        for column in sketches[rows, start : start + width].T:
            keys = (keys + column + np.uint64(1)) * MULTIPLIER
        yield mix_bits(keys)


def band_width(threshold: float) -> int:
    """The most values in a band for which pairs at the threshold are found with RECALL."""
    return max(
        width
        for width in range(1, PERMUTATIONS + 1)
        if width == 1 or 1 - (1 - threshold**width) ** (PERMUTATIONS // width) >= RECALL
    )


def are_similar(sketches: Sketches, left: Indices, right: Indices, threshold: float) -> NDArray[np.bool_]:
    """For each pair of rows whether at least `threshold` of their sketches' values are equal."""
    alike = np.zeros(len(left), np.bool_)
    least = threshold * PERMUTATIONS
    for start in range(0, len(left), PAIRS_AT_A_TIME):
        part = slice(start, start + PAIRS_AT_A_TIME)
        equal = sketches[left[part]] == sketches[right[part]]
        alike[part] = np.count_nonzero(equal, axis=1) >= least
    return alike
