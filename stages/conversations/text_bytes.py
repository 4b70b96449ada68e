"""The texts of a batch as one run of bytes, in which places are looked up by the million a second; pure functions.

What is rare in texts (an @, a run of digits) is found in the bytes of all of them together, and only what stands around such a place is looked at
one by one.
"""

import string
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Places = NDArray[np.int64]
"""Indices of bytes in `TextBytes.data`, ascending."""


SAMPLE, SPARSE = 2**16, 256
"""Bytes that tell whether a byte is rare: fewer than one in SPARSE."""


class TextBytes(NamedTuple):
    """Texts, one after the other."""

    data: NDArray[np.uint8]
    """Their UTF-8."""
    whole: bytes
    """The same."""
    ends: NDArray[np.int64]
    """(n + 1,): text i is data[ends[i] : ends[i + 1]]."""

    def find_byte(self, byte: int) -> Places:
        """Where a byte stands that has another behind it."""
        if np.count_nonzero(self.data[:SAMPLE] == byte) > SAMPLE // SPARSE:
            return np.flatnonzero(self.data[:-1] == byte)
        # where a byte is rare, the search for the next one is several times as fast as a look at all
        found, sign = [], bytes((byte,))
        place = self.whole.find(sign, 0, -1)
        while place >= 0:
            found.append(place)
            place = self.whole.find(sign, place + 1, -1)
        return np.array(found, np.int64)

    def find_digits(self) -> Places:
        """Where digits stand."""
        # one comparison in place of two: bytes below "0" wrap around
        return np.flatnonzero(self.data - np.uint8(ord("0")) < len(string.digits))

    def find_text(self, places: Places) -> NDArray[np.int64]:
        """Which text each place is in."""
        return np.searchsorted(self.ends, places, side="right") - 1

    def walk(self, places: Places) -> Iterator[tuple[int, int, int, int]]:
        """(place, text, where the text begins, where it ends) of each place."""
        texts = self.find_text(places)
        columns = (places, texts, self.ends[texts], self.ends[texts + 1])
        yield from zip(*(column.tolist() for column in columns), strict=True)

    def text(self, index: int) -> str:
        """A whole text."""
        return self.whole[self.ends[index] : self.ends[index + 1]].decode()


def view_bytes(texts: pa.Array) -> TextBytes:
    """An array of strings as bytes; null is a text of no bytes.

    Args:
        texts: pa.string().
    """
    _, offsets, data = texts.buffers()
    if offsets is None or data is None or not len(texts):
        return TextBytes(np.zeros(0, np.uint8), b"", np.zeros(len(texts) + 1, np.int64))
    ends = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    found = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]
    return TextBytes(found, found.tobytes(), ends - ends[0])


def make_class(characters: bytes) -> NDArray[np.bool_]:
    """By byte, whether it is one of these, (256,)."""
    found = np.zeros(256, np.bool_)
    found[list(characters)] = True
    return found
