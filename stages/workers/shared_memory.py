"""Objects from process to process through memory that both see, for what is large: Arrow batches and arrays.

A pipe carries the same bytes in pieces of 64 kB, from one process's copy to the other's: four times the processor time.
"""

import mmap
import pickle
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

SIZE = 32 * 2**20
"""Bytes of a segment. Pages that nothing was written to take no memory; what does not fit goes by the pipe."""
LINE = 64
"""Bytes to whose multiple a buffer begins, as Arrow wants it."""


class Parcel(NamedTuple):
    """An object on its way: its pickle, and where its buffers lie in a segment."""

    pickled: bytes
    places: list[tuple[int, int]] | None
    """(begin, end) of each; None: they are in the pickle."""


def allocate_segments(count: int) -> list[mmap.mmap]:
    """So many pieces of memory that processes forked from now on share with this one; each is freed with its last reference."""
    return [mmap.mmap(-1, SIZE) for _ in range(count)]


def put(value: object, segment: mmap.mmap) -> Parcel:
    """Lay the buffers of an object into a segment, over what is there."""
    found: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(value, protocol=5, buffer_callback=found.append)
    buffers = [buffer.raw() for buffer in found]
    places = list(lay_out([buffer.nbytes for buffer in buffers]))
    if places and places[-1][1] > SIZE:
        return Parcel(pickle.dumps(value, protocol=5), None)
    for (begin, end), buffer in zip(places, buffers, strict=True):
        segment[begin:end] = buffer
    return Parcel(pickled, places)


def lay_out(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where buffers of these sizes lie, one behind the other."""
    room = accumulate((-(-size // LINE) * LINE for size in sizes), initial=0)
    for begin, size in zip(room, sizes, strict=False):
        yield begin, begin + size


def take(parcel: Parcel, segment: mmap.mmap) -> Any:  # noqa: ANN401 - whatever was put
    """The object, with copies of its buffers: the segment may be used again."""
    return pickle.loads(parcel.pickled, buffers=[segment[begin:end] for begin, end in parcel.places or ()])  # noqa: S301 - our own bytes
