import threading
from itertools import islice

import pytest

from stages.dataset_files.prefetch import read_ahead


def test_items_come_in_order_and_none_is_lost():
    assert list(read_ahead(number for number in range(50))) == list(range(50))
    assert list(read_ahead(item for item in [])) == []
    assert list(read_ahead(item for item in [None, False, 0])) == [None, False, 0]


def test_next_item_is_made_while_the_last_one_is_used():
    made = [threading.Event() for _ in range(3)]

    def items():
        for number, event in enumerate(made):
            event.set()
            yield number

    for number in read_ahead(items()):
        if number < 2:
            assert made[number + 1].wait(10)


def test_what_an_item_raises_comes_at_its_turn():
    def items():
        yield 1
        yield 2
        raise ValueError("the third")

    found = read_ahead(items())
    assert list(islice(found, 2)) == [1, 2]
    with pytest.raises(ValueError, match="the third"):
        next(found)


def test_iterator_that_is_left_is_closed_and_its_thread_ends():
    closed = threading.Event()

    def items():
        try:
            yield from range(1_000)
        finally:
            closed.set()

    source = items()
    before = threading.active_count()
    for number in (found := read_ahead(source)):
        if number == 3:
            break
    found.close()
    assert closed.is_set()
    assert threading.active_count() == before
