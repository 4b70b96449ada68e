"""Training rows that may nearly repeat a held-out one, told by a few places of each: the others need no sketch; pure functions.

To sketch all rows takes as long as all else that is done to them, and where few rows are held out, hardly any is near one. So of a training
row a few places are looked at, evenly spaced; of each the run of RUN words that stands there is hashed. A held-out row is sketched, and the
hashes of all its runs are handed on. A training row with enough of its runs in one of those rows is sketched afterwards and compared as ever, so
rows are set aside by their sketches alone; the samples only say which rows need none.

A row that is near by the threshold has that share of its shingles in the held-out row or more, and about as many of its runs: some less
where words are replaced here and there (0.82 at 0.8), as many where a piece is added. Several hits are asked for, since one may be a phrase
that everybody uses; and a run of many held-out rows, such as a piece of a prompt that all begin with, tells nothing: the other places have to.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from math import comb
from typing import NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from stages.dedup.minhash import Sketches, sketch_texts
from stages.dedup.shingles import ASCII, UNUSUAL, WORD, blank_others, kinds_of, normalize_text

Mask = NDArray[np.bool_]
RunHashes = NDArray[np.uint32]
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
"""Share of held-out rows up to which training rows are sampled: the hashes of all held-out runs are held in memory, 12 bytes a word, and four times that while they are ordered."""

COMMON = 16
"""Held-out rows from which a run that more of them have tells nothing. Bounds what is counted for a row."""

UNTOLD = 1 / 3
"""Part of a row's places that may tell nothing; where more do, the others are too few to lose none by, so the row is sketched."""

MISSING = 0
"""In place of a run where a window holds too few words; it tells nothing."""

ROWS_AT_A_TIME = 10_000
"""Sampled rows that are looked up at a time: 10 MB, 100 MB where all their places are in many held-out rows."""


@dataclass(frozen=True)
class SamplingPlan:
    """How training rows are sampled."""

    places: int
    """In each row."""
    hits: int
    """Places that must be in one held-out row for a row to be sketched; one less for each place that tells nothing but the first."""


class HeldoutRuns(NamedTuple):
    """The different runs of each of some held-out rows."""

    hashes: RunHashes
    """(n,)"""
    rows: NDArray[np.int64]
    """(n,), the row's number among the held-out ones."""

    @classmethod
    def join(cls, parts: "Sequence[HeldoutRuns]") -> "HeldoutRuns":
        """The runs of several batches of rows, ordered by hash."""
        starts = np.cumsum([0, *(part.rows.max(initial=-1) + 1 for part in parts)]).tolist()
        hashes = np.concatenate([np.zeros(0, np.uint32), *(part.hashes for part in parts)])
        rows = [part.rows + start for part, start in zip(parts, starts, strict=False)]
        order = np.argsort(hashes, kind="stable")
        return cls(hashes[order], np.concatenate([np.zeros(0, np.int64), *rows])[order])


@dataclass(frozen=True)
class Signs:
    """What the near rows of a batch are found by. A row is sketched or sampled."""

    sketched: Mask
    """(n,)"""
    sketches: Sketches
    """Of the sketched rows, (sketched, PERMUTATIONS)."""
    samples: RunHashes
    """Of the others, (sampled, places)."""
    runs: HeldoutRuns
    """Those of the held-out rows; empty where no row is sampled."""

    def select(self, rows: Mask) -> "Signs":
        """The signs of some of the rows; the runs stay."""
        return Signs(
            self.sketched[rows], self.sketches[rows[self.sketched]], self.samples[rows[~self.sketched]], self.runs
        )


def plan_sampling(near_duplicates: str, heldout_fraction: float, threshold: float) -> SamplingPlan | None:
    """How training rows are sampled, or None where all rows are sketched; the arguments as in standardize's params.

    No more hits are asked for than half the places: rows somewhat below the threshold may have a sketch that is above.
    """
    if near_duplicates != "off" or heldout_fraction > LARGEST_HELDOUT:
        return None
    for places in range(FEWEST, MOST + 1):
        enough = [
            hits for hits in range(FEWEST_HITS, places // 2 + 1) if expected_loss(places, hits, threshold) <= LOSS
        ]
        if enough:
            return SamplingPlan(places, max(enough))
    return None


def expected_loss(places: int, hits: int, share: float) -> float:
    """Part of the rows with fewer hits, where each place is one with the probability `share`."""
    return sum(comb(places, k) * share**k * (1 - share) ** (places - k) for k in range(hits))


def compute_signs(texts: Sequence[str], heldout: Mask, plan: SamplingPlan | None) -> Signs:
    """The signs of a batch of rows. Sketched are all without a plan; else those held out, and those with so few words at their places
    that they are to be sketched anyway.

    Args:
        texts: (n,), whole texts.
        heldout: (n,), the rows that are held out.
        plan: how the others are sampled.
    """
    if plan is None:
        return Signs(np.ones(len(texts), np.bool_), sketch_texts(texts), np.zeros((0, 0), np.uint32), hash_all_runs([]))
    found = sample_runs(list(compress(texts, ~heldout)), plan.places)
    too_few = np.count_nonzero(found == MISSING, axis=1) >= plan.hits
    sketched = heldout.copy()
    sketched[np.flatnonzero(~heldout)[too_few]] = True
    runs = hash_all_runs(list(compress(texts, heldout)))
    return Signs(sketched, sketch_texts(list(compress(texts, sketched))), found[~too_few], runs)


def sample_runs(texts: Sequence[str], places: int) -> RunHashes:
    """The run at each of the evenly spaced places of each text, (n, places); MISSING where a window holds too few words."""
    found: list[str] = []
    for text in texts:
        part = max(len(text) // places, 1)
        size = min(part, WINDOW)
        first = (part - size) // 2
        found += [text[start : start + size] for start in range(first, first + places * part, part)]
    return hash_runs_at(found).reshape(-1, places)


def hash_runs_at(windows: Sequence[str]) -> RunHashes:
    """The first RUN words of each window behind the one that it may have cut, hashed, (n,); MISSING where it has fewer.

    A word behind them is asked for, since the last may be cut as well.
    """
    found = []
    for window in normalize_short_texts(windows):
        said = window.split(None, RUN + 1)
        found.append(hash_run(said[1:-1]) if len(said) == RUN + 2 else MISSING)
    return np.array(found, np.uint32)


def hash_all_runs(texts: Sequence[str]) -> HeldoutRuns:
    """All different runs of each text."""
    found: list[set[int]] = []
    for text in texts:
        said = normalize_text(text).split()
        found.append(set(map(hash_run, zip(*(said[k:] for k in range(RUN)), strict=False))))
    sizes = [len(runs) for runs in found]
    hashes = np.fromiter(chain.from_iterable(found), np.uint32, sum(sizes))
    return HeldoutRuns(hashes, np.repeat(np.arange(len(texts)), sizes))


def hash_run(run: Iterable[str]) -> int:
    """A hash of words, the same on every machine."""
    return crc32(" ".join(run).encode())


def normalize_short_texts(texts: Sequence[str]) -> list[str]:
    """`normalize_text` of many short texts in one go, a text without words apart: of that, nothing but white space."""
    plain = [text for text in texts if text.isascii()]
    other = [unicodedata.normalize("NFKC", text).casefold() for text in texts if not text.isascii()]
    codes = np.frombuffer("".join(other).encode("utf-32-le"), "<u4")
    from_plain = cut("".join(plain).translate(ASCII), plain)
    from_other = cut(blank_others(codes, kinds_of(codes)), other)
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


def may_repeat(samples: RunHashes, runs: HeldoutRuns, hits: int) -> Mask:
    """Which sampled rows may nearly repeat a held-out one, (n,).

    Args:
        samples: (n, places).
        runs: as `HeldoutRuns.join` gives them.
        hits: of the plan.
    """
    parts = range(0, len(samples), ROWS_AT_A_TIME)
    found = [match_samples(samples[start : start + ROWS_AT_A_TIME], runs, hits) for start in parts]
    return np.concatenate([np.zeros(0, np.bool_), *found])


def match_samples(samples: RunHashes, runs: HeldoutRuns, hits: int) -> Mask:
    """The same of few rows."""
    first, last = (np.searchsorted(runs.hashes, samples, side) for side in ("left", "right"))
    holders = last - first
    untold = (samples == MISSING) | (holders > COMMON)
    holders[untold] = 0
    # one that is missing loses few: at 0.8, of rows exactly at the threshold 7 in 1,000
    need = np.maximum(hits - np.maximum(untold.sum(axis=1) - 1, 0), 1)
    found = untold.sum(axis=1) > UNTOLD * samples.shape[1]
    # each place with each held-out row that has its run, of the rows that have enough such places
    asked = np.flatnonzero(~found & ((holders > 0).sum(axis=1) >= need))
    counts = holders[asked].ravel()
    ends = counts.cumsum()
    places = np.arange(counts.sum()) + np.repeat(first[asked].ravel() - (ends - counts), counts)
    row = np.repeat(np.repeat(asked, samples.shape[1]), counts)
    size = runs.rows.max(initial=0) + 1
    pairs, shared = np.unique(row * size + runs.rows[places], return_counts=True)
    found[pairs[shared >= need[pairs // size]] // size] = True
    return np.asarray(found, np.bool_)
