"""Texts as runs of words and of hashed n-grams: what near duplicates and contamination are found by; pure functions.

A word is a run of letters, digits and underscores, case-folded, so that punctuation, case and white space make no difference.
In scripts that put no spaces between words (Chinese, Japanese, Thai, Khmer, ...) each character is a word.
"""

import re
import sys
import unicodedata
import zlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Offsets = NDArray[np.int64]
"""Row r has the values from offsets[r] to offsets[r + 1]; n + 1 of them."""

SPACELESS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
)
MARKS = "\u0300-\u036f\u0591-\u05c7\u0610-\u065f\u0900-\u0963\u0966-\u0dff"
"""Accents, points and vowel signs, which `\\w` leaves out and which would cut words of Hebrew, Arabic and the scripts of India."""

WORD = re.compile(f"[{SPACELESS}]|[^\\W{SPACELESS}]+(?:[{MARKS}]+[^\\W{SPACELESS}]*)*")
UNUSUAL = re.compile(f"[{SPACELESS}{MARKS}]")
UNSEEN, INSIDE, BETWEEN, OTHERWISE = range(4)
KINDS = np.full(sys.maxunicode + 1, UNSEEN, np.uint8)
"""By code point, as far as they have been seen."""
ASCII = "".join(c.lower() if c.isalnum() or c == "_" else " " for c in map(chr, range(128)))

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
FINISH = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def normalize_text(text: str) -> str:
    """The text's words with white space between them; all but the white space of a text that has no word (only signs or emoji)."""
    found = (
        text.translate(ASCII) if text.isascii() else normalize_folded(unicodedata.normalize("NFKC", text).casefold())
    )
    return found if found.strip(" ") else "".join(text.split())


def normalize_folded(text: str) -> str:
    """The words of a text that is folded already, with spaces between them."""
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    kinds = kinds_of(codes)
    if (kinds == OTHERWISE).any():
        return " ".join(WORD.findall(text))
    # without the expression, which takes a third of the time of all the rest where some letters have accents
    return blank_others(codes, kinds)


def blank_others(codes: NDArray[np.uint32], kinds: NDArray[np.uint8]) -> str:
    """The text of these code points, of these kinds, with spaces for all that is not in a word; as long as it was."""
    return np.where(kinds == INSIDE, codes, np.uint32(ord(" "))).astype("<u4").tobytes().decode("utf-32-le")


def kinds_of(codes: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """For each code point whether it is in a word, between words, or asks for the expression. Each is looked at once in a process."""
    kinds = KINDS[codes]
    if not kinds.all():
        for code in np.unique(codes[kinds == UNSEEN]).tolist():
            character = chr(code)
            KINDS[code] = OTHERWISE if UNUSUAL.match(character) else INSIDE if WORD.match(character) else BETWEEN
        kinds = KINDS[codes]
    return kinds


def word_hashes(texts: Sequence[str]) -> tuple[Hashes, Offsets]:
    """A hash of each word of each text, the same on every machine; at least one for each text."""
    lists = pc.ascii_split_whitespace(
        pc.ascii_trim_whitespace(pa.array([normalize_text(text) for text in texts], pa.large_string()))
    )
    if not len(lists):
        return np.zeros(0, np.uint64), np.zeros(1, np.int64)
    encoded = lists.flatten().dictionary_encode()
    different = encoded.dictionary.cast(pa.large_binary()).to_pylist()
    known = np.fromiter(map(zlib.crc32, different), np.uint64, len(different))
    return known[encoded.indices.to_numpy()], lists.offsets.to_numpy().astype(np.int64)


def ngrams(hashes: Hashes, offsets: Offsets, n: int) -> tuple[Hashes, Offsets]:
    """Hashes of all runs of n words of each row; a row of fewer words has one run, the whole of it."""
    lengths = np.diff(offsets)
    counts = np.maximum(lengths - n + 1, 1)
    ends = np.zeros(len(offsets), np.int64)
    np.cumsum(counts, out=ends[1:])
    padded = np.concatenate([hashes, np.zeros(n, np.uint64)])
    runs = np.zeros(len(hashes), np.uint64)
    for k in range(n):
        runs = (runs + padded[k : k + len(hashes)]) * MULTIPLIER
    starts = np.arange(ends[-1]) + np.repeat(offsets[:-1] - ends[:-1], counts)
    found = runs[starts]
    for row in np.flatnonzero(lengths < n):
        found[ends[row]] = hash_short_row(hashes[offsets[row] : offsets[row + 1]], n)
    return mix_bits(found), ends


def hash_short_row(hashes: Hashes, n: int) -> np.uint64:
    """The hash, not yet finished, of one row's words as a run of n words with nothing in the last places."""
    run = np.zeros(1, np.uint64)
    for k in range(n):
        run = (run + (hashes[k : k + 1] if k < len(hashes) else np.zeros(1, np.uint64))) * MULTIPLIER
    return np.uint64(run[0])


def mix_bits(values: Hashes) -> Hashes:
    """Each value mixed so that every bit depends on all of its bits (the finalizer of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * FINISH[0]
    values = (values ^ (values >> np.uint64(27))) * FINISH[1]
    return np.asarray(values ^ (values >> np.uint64(31)), np.uint64)
