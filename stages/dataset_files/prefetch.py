"""An iterator that works on its next item while the last one is used."""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

Item = TypeVar("Item")


def read_ahead(items: Generator[Item, None, None]) -> Iterator[Item]:
    """The items, each made in a thread while the caller uses the one before: for decoders, which leave Python to others.

    What making an item raises is raised here, at its turn. Two items are in memory at a time. It is closed with the caller.
    """
    end = object()
    with closing(items), ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield item  # type: ignore[misc]
