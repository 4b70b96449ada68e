"""Training rows that hold texts of an evaluation set: a model trained on them would be measured on what it has seen.

A row is contaminated if it shares a run of 13 words with a text of the evaluation set, or holds a shorter text, of 5 to 12 words, as a
whole. Texts with fewer words, numbers not counted, are everybody's and say nothing. Only hashes of the texts are held in memory.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.core.errors import StageError
from stages.dataset_files.file_kinds import place_in
from stages.dataset_files.json_rows import loads
from stages.dataset_files.reader import read_rows
from stages.dedup.shingles import Hashes, ngrams, normalize_text, word_hashes

LONGEST = 13
"""Words of a run that no two texts share by chance."""

SHORTEST = 5
"""Words, not counting numbers, of the shortest text that is looked for."""

TEXTS_AT_A_TIME = 2_000
CUSTOM = "data/custom/"
NONE = np.iinfo(np.int16).max
"""In place of a file's number: no file."""
FILTER = 16
"""Entries of the first filter for each hash: one lookup in 16 that finds nothing goes on to the sorted hashes."""


@dataclass(frozen=True)
class RunIndex:
    """Hashes of all runs of one number of words that an evaluation set is known by: 10 bytes each, and 16 to 32 for the filter."""

    hashes: Hashes
    """Sorted."""
    files: NDArray[np.int16]
    """For each the number of the first file that has it."""
    seen: NDArray[np.bool_]
    """Whether some hash has these low bits; 2 ** k entries."""

    @classmethod
    def from_files(cls, by_file: Sequence[tuple[int, Hashes]]) -> "RunIndex":
        """(number of the file, hashes) in the order of the files; the hashes in any order, with repetitions or without."""
        hashes, first = np.unique(np.concatenate([hashes for _, hashes in by_file]), return_index=True)
        files = np.concatenate([np.full(len(hashes), file, np.int16) for file, hashes in by_file])[first]
        seen = np.zeros(1 << (FILTER * len(hashes)).bit_length(), np.bool_)
        seen[hashes & np.uint64(len(seen) - 1)] = True
        return cls(hashes, files, seen)

    def find_files(self, asked: Hashes) -> NDArray[np.int16]:
        """For each hash the number of the first file that has it, or NONE."""
        found = np.full(len(asked), NONE, np.int16)
        likely = np.flatnonzero(self.seen[asked & np.uint64(len(self.seen) - 1)])
        at = np.minimum(np.searchsorted(self.hashes, asked[likely]), len(self.hashes) - 1)
        same = self.hashes[at] == asked[likely]
        found[likely[same]] = self.files[at[same]]
        return found


EvaluationIndex = dict[int, RunIndex]
"""{words: the runs of that many words that a row must not hold}; goes to worker processes as it is."""


def find_evaluation_files(custom: Path, names: Iterable[str]) -> list[tuple[Path, str]]:
    """(path, name) of the files that `standardize.contamination` names, with or without the folder. Raises StageError if one is not there."""
    found = []
    for named in names:
        name = named.removeprefix(CUSTOM)
        path = custom / name
        if not path.is_file() or ".." in Path(name).parts or Path(name).is_absolute():
            raise StageError(f"{CUSTOM}{name} is not there: copy it into data/custom")
        found.append((path, name))
    return found


def index_evaluation_sets(files: Iterable[tuple[Path, str]]) -> EvaluationIndex:
    """What the evaluation sets are known by.

    Args:
        files: (path, name) of each file, as for `stages.dataset_files.reader.read_rows`; every text in every record counts, however deep.

    Raises:
        StageError: a file cannot be read, a line of it is not JSON, or it has no text that is long enough to be looked for.
    """
    found: dict[int, list[tuple[int, Hashes]]] = {}
    for number, (path, name) in enumerate(files):
        before = sum(map(len, found.values()))
        batch: list[str] = []
        for text in filter(says_something, read_texts(path, name)):
            batch.append(text)
            if len(batch) == TEXTS_AT_A_TIME:
                add_runs(batch, number, found)
                batch = []
        add_runs(batch, number, found)
        if sum(map(len, found.values())) == before:
            raise StageError(
                f"{name} has no text of {SHORTEST} words or more (numbers not counted), so no row can be compared with it. "
                "Take it out of standardize.contamination, or bring the file with the questions."
            )
    return {n: RunIndex.from_files(by_file) for n, by_file in sorted(found.items())}


def find_contaminated(texts: Sequence[str], index: EvaluationIndex) -> NDArray[np.int16]:
    """For each text, that of one conversation's messages joined by line feeds, the number of the first file of which it holds a text, or NONE."""
    found = np.full(len(texts), NONE, np.int16)
    if len(texts):
        hashes, offsets = word_hashes(texts)
        for n, runs in index.items():
            asked, starts = ngrams(hashes, offsets, n)
            found = np.minimum(found, np.minimum.reduceat(runs.find_files(asked), starts[:-1]))
    return found


def add_runs(texts: list[str], number: int, found: dict[int, list[tuple[int, Hashes]]]) -> None:
    """Add the runs that these texts of a file are known by: all of LONGEST words, or the whole of a shorter one."""
    if not texts:
        return
    hashes, offsets = word_hashes(texts)
    lengths = np.diff(offsets)
    for n in range(SHORTEST, LONGEST + 1):
        runs, starts = ngrams(hashes, offsets, n)
        rows = lengths >= n if n == LONGEST else lengths == n
        kept = runs[np.repeat(rows, np.diff(starts))]
        if len(kept):
            found.setdefault(n, []).append((number, kept))


def says_something(text: str) -> bool:
    """Whether enough of the text's words are no numbers: `1 2 3 4 5 6 7 8` stands in many texts."""
    return sum(not word.isdigit() for word in normalize_text(text).split()) >= SHORTEST


def read_texts(path: Path, name: str) -> Iterator[str]:
    """Every text in the file's records: the values, not the keys."""
    for place, record in read_rows(path, name):
        left = [loads(record)]
        if left == [None] and record.strip() != b"null":
            raise StageError(f"{place_in(name, place)}: the row is not JSON, so no row can be compared with it")
        while left:
            value = left.pop()
            if isinstance(value, str):
                if not is_unicode(value):
                    raise StageError(
                        f"{place_in(name, place)}: the row holds text that is not Unicode, so no row can be compared with it; "
                        "save the file as UTF-8, or take the row out"
                    )
                yield value
            elif isinstance(value, dict):
                left += value.values()
            elif isinstance(value, list):
                left += value


def is_unicode(text: str) -> bool:
    """Whether it has no lone surrogate, as which bytes that are not UTF-8 are read, too."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
