"""Training rows that may nearly repeat a held-out one, told by a few places of each: the others need no sketch; pure functions.

To sketch all rows takes as long as all else that is done to them, and where few rows are held out, hardly any is near one. So of a training
row a few places are looked at, evenly spaced; of each the run of RUN words that stands there is hashed. A held-out row is sketched, and the
hashes of all its runs are handed on. A training row with enough of its runs among those is sketched afterwards and compared as ever, so
rows are set aside by their sketches alone; the samples only say which rows need none.

A row that is near by the threshold has that share of its shingles in the held-out row or more, and about as many of its runs: some less
where words are replaced here and there (0.82 at 0.8), as many where a piece is added. Several hits are asked for, since one may be a phrase
that everybody uses.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from math import comb
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from stages.near_duplicates import Sketches, sketches
from stages.words import ASCII, UNUSUAL, WORD, kinds_of, spaced, words

Mask = NDArray[np.bool_]
Runs = NDArray[np.uint32]
"""Hashes of runs of words. Where two runs share one, a row more may be sketched."""

RUN = 5
"""Words in a run."""

WINDOW = 128
"""Characters of a place at most: room for a run and the words that are cut at both ends, in code too."""

FEWEST, MOST = 6, 16
"""Places in a row. To look at MOST costs more than half as much as a sketch."""

FEWEST_HITS = 2

LOSS = 0.002
"""Part of the rows exactly at the threshold that are not found: a tenth of what the search among sketches loses (RECALL)."""

LARGEST_HELDOUT = 0.05
"""Share of held-out rows up to which training rows are sampled: the hashes of all held-out runs are held in memory, 4 bytes a word."""

MISSING = 0
"""In place of a run where a window holds too few words; counts as a hit, so that such a row is rather sketched than lost."""


@dataclass(frozen=True)
class Plan:
    """How training rows are sampled."""

    places: int
    """In each row."""
    hits: int
    """Places from which a row is sketched."""


@dataclass(frozen=True)
class Signs:
    """What the near rows of a batch are found by. A row is sketched or sampled."""

    sketched: Mask
    """(n,)"""
    sketches: Sketches
    """Of the sketched rows, (sketched, PERMUTATIONS)."""
    samples: Runs
    """Of the others, (sampled, places)."""
    runs: Runs
    """Those of the held-out rows, in no order; empty where no row is sampled."""

    def of(self, rows: Mask) -> "Signs":
        """The signs of some of the rows; the runs stay."""
        return Signs(
            self.sketched[rows], self.sketches[rows[self.sketched]], self.samples[rows[~self.sketched]], self.runs
        )


def plan_for(near_duplicates: str, heldout_fraction: float, threshold: float) -> Plan | None:
    """How training rows are sampled, or None where all rows are sketched; the arguments as in standardize's params.

    No more hits are asked for than half the places: rows somewhat below the threshold may have a sketch that is above.
    """
    if near_duplicates != "off" or heldout_fraction > LARGEST_HELDOUT:
        return None
    for places in range(FEWEST, MOST + 1):
        enough = [hits for hits in range(FEWEST_HITS, places // 2 + 1) if lost(places, hits, threshold) <= LOSS]
        if enough:
            return Plan(places, max(enough))
    return None


def lost(places: int, hits: int, share: float) -> float:
    """Part of the rows with fewer hits, where each place is one with the probability `share`."""
    return sum(comb(places, k) * share**k * (1 - share) ** (places - k) for k in range(hits))


def signs(texts: Sequence[str], heldout: Mask, plan: Plan | None) -> Signs:
    """The signs of a batch of rows. Sketched are all without a plan; else those held out, and those with so few words at their places
    that they are to be sketched anyway.

    Args:
        texts: (n,), whole texts.
        heldout: (n,), the rows that are held out.
        plan: how the others are sampled.
    """
    if plan is None:
        none = np.zeros(0, np.uint32)
        return Signs(np.ones(len(texts), np.bool_), sketches(texts), none.reshape(0, 0), none)
    found = samples(list(compress(texts, ~heldout)), plan.places)
    too_few = np.count_nonzero(found == MISSING, axis=1) >= plan.hits
    sketched = heldout.copy()
    sketched[np.flatnonzero(~heldout)[too_few]] = True
    runs = runs_in(list(compress(texts, heldout)))
    return Signs(sketched, sketches(list(compress(texts, sketched))), found[~too_few], runs)


def samples(texts: Sequence[str], places: int) -> Runs:
    """The run at each of the evenly spaced places of each text, (n, places); MISSING where a window holds too few words."""
    found: list[str] = []
    for text in texts:
        part = max(len(text) // places, 1)
        size = min(part, WINDOW)
        first = (part - size) // 2
        found += [text[start : start + size] for start in range(first, first + places * part, part)]
    return runs_at(found).reshape(-1, places)


def runs_at(windows: Sequence[str]) -> Runs:
    """The first RUN words of each window behind the one that it may have cut, hashed, (n,); MISSING where it has fewer.

    A word behind them is asked for, since the last may be cut as well.
    """
    found = []
    for window in words_of_short(windows):
        said = window.split(None, RUN + 1)
        found.append(hash_of(said[1:-1]) if len(said) == RUN + 2 else MISSING)
    return np.array(found, np.uint32)


def runs_in(texts: Sequence[str]) -> Runs:
    """All different runs of texts, hashed, in no order."""
    found: set[int] = set()
    for text in texts:
        said = words(text).split()
        found.update(map(hash_of, zip(*(said[k:] for k in range(RUN)), strict=False)))
    return np.fromiter(found, np.uint32, len(found))


def hash_of(run: Iterable[str]) -> int:
    """A hash of words, the same on every machine."""
    return crc32(" ".join(run).encode())


def words_of_short(texts: Sequence[str]) -> list[str]:
    """`words` of many short texts in one go, a text without words apart: of that, nothing but white space."""
    plain = [text for text in texts if text.isascii()]
    other = [unicodedata.normalize("NFKC", text).casefold() for text in texts if not text.isascii()]
    codes = np.frombuffer("".join(other).encode("utf-32-le"), "<u4")
    from_plain = cut("".join(plain).translate(ASCII), plain)
    from_other = cut(spaced(codes, kinds_of(codes)), other)
    found = (
        " ".join(WORD.findall(text)) if UNUSUAL.search(text) else done
        for text, done in zip(other, from_other, strict=True)
    )
    return [next(from_plain) if text.isascii() else next(found) for text in texts]


def cut(joined: str, texts: Sequence[str]) -> Iterator[str]:
    """The pieces of a text that are as long as these."""
    end = 0
    for text in texts:
        start, end = end, end + len(text)
        yield joined[start:end]


def may_repeat(samples: Runs, runs: Sequence[Runs], hits: int) -> Mask:
    """For each sampled row, (n, places), whether at least `hits` of its places are in one of the held-out rows' runs, or have none."""
    known = np.concatenate([*runs, np.array([MISSING], np.uint32)])
    known.sort()
    found = np.zeros(len(samples), np.int64)
    for place in samples.T:
        at = np.minimum(np.searchsorted(known, place), len(known) - 1)
        found += known[at] == place
    return found >= hits
