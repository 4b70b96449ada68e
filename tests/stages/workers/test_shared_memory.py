import numpy as np
import pyarrow as pa
import pytest

from stages.workers import shared_memory as slots
from stages.workers.ordered_map import AHEAD, ordered_map
from stages.workers.shared_memory import LINE, SIZE, lay_out, put, take


def batch(rows: int, first: int = 0) -> pa.RecordBatch:
    numbers = pa.array(np.arange(first, first + rows))
    return pa.RecordBatch.from_arrays([numbers, pa.array([f"row {n}" for n in range(rows)])], names=["number", "text"])


def test_what_is_put_is_taken_and_the_slot_may_be_used_again() -> None:
    (slot,) = slots.allocate_segments(1)
    parcel = put(batch(1_000), slot)
    assert parcel.places, "the buffers went by the pipe"
    assert len(parcel.pickled) < 2_000
    first = take(parcel, slot)
    second = take(put({"other": batch(1_000, first=7), "n": 3}, slot), slot)
    assert first.equals(batch(1_000))
    assert second["other"].equals(batch(1_000, first=7))
    assert second["n"] == 3


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_larger_than_a_slot_travels_all_the_same(workers: int) -> None:
    large = np.zeros(SIZE + 1, np.uint8)
    large[-1] = 7
    found = list(ordered_map(lambda item: item[::-1].copy(), [large, large[:10], large], workers))
    assert [len(item) for item in found] == [SIZE + 1, 10, SIZE + 1]
    assert found[0][0] == 7
    assert found[1].sum() == 0


def test_results_that_are_kept_are_not_written_over() -> None:
    count = 4 * AHEAD * 2
    found = list(ordered_map(lambda first: batch(100, first), range(count), 2))
    assert [item["number"][0].as_py() for item in found] == list(range(count))


def test_buffers_begin_where_arrow_wants_them() -> None:
    places = list(lay_out([1, 0, LINE, LINE + 1, 5]))
    assert places == [(0, 1), (LINE, LINE), (LINE, 2 * LINE), (2 * LINE, 3 * LINE + 1), (4 * LINE, 4 * LINE + 5)]
