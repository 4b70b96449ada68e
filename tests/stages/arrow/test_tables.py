import os
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.arrow.row_groups import BYTES_PER_GROUP, ROWS_PER_GROUP, row_sizes
from stages.arrow.tables import read_arrow, read_parquet, read_parquet_batches, regroup, write_parquet
from tests.arrow_files import write_arrow

SCHEMA = pa.schema([("row", pa.int64()), ("ids", pa.list_(pa.int32()))])


def table(rows: int) -> pa.Table:
    return pa.table({"row": list(range(rows)), "ids": [[i, i + 1] for i in range(rows)]}, schema=SCHEMA)


@pytest.mark.parametrize("write", [write_parquet, write_arrow])
@pytest.mark.parametrize("batch", [1_000, 3_333, 40_000])
def test_write_any_batch_size_gives_the_same_bytes(tmp_path: Path, write, batch: int) -> None:
    rows = table(25_000)
    write(tmp_path / "whole", rows)
    write(tmp_path / "batches", rows.to_batches(max_chunksize=batch), SCHEMA)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "batches").read_bytes()


@pytest.mark.parametrize(("write", "read"), [(write_parquet, read_parquet), (write_arrow, read_arrow)])
@pytest.mark.parametrize("rows", [0, 1, ROWS_PER_GROUP, ROWS_PER_GROUP + 1])
def test_write_then_read_gives_the_rows(tmp_path: Path, write, read, rows: int) -> None:
    write(tmp_path / "file", table(rows))
    assert read(tmp_path / "file").equals(table(rows))


def test_parquet_batches_keeps_no_earlier_row_groups_in_memory(tmp_path: Path) -> None:
    schema = pa.schema([("row", pa.binary())])
    groups = (pa.record_batch([[os.urandom(100) for _ in range(ROWS_PER_GROUP)]], schema=schema) for _ in range(20))
    write_parquet(tmp_path / "file", groups, schema)
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in read_parquet_batches(tmp_path / "file", rows=1000)]
    assert len(held) == 200
    assert max(held) < 4 * 100 * ROWS_PER_GROUP, "a group is 1 MB, the file 20"


def test_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    write_parquet(tmp_path / "file", table(1))

    def broken():
        yield from table(3).to_batches()
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        write_parquet(tmp_path / "file", broken(), SCHEMA)
    assert read_parquet(tmp_path / "file").num_rows == 1


def test_arrow_is_what_datasets_memory_maps(tmp_path: Path) -> None:
    with pa.OSFile(str(tmp_path / "x"), "wb"):
        pass
    write_arrow(tmp_path / "train.arrow", table(10))
    with pa.memory_map(str(tmp_path / "train.arrow")) as source:
        assert pa.ipc.open_stream(source).read_all().num_rows == 10


@given(st.lists(st.integers(0, 3 * ROWS_PER_GROUP), max_size=5))
def test_regrouped_keeps_all_rows_in_full_groups(sizes: list[int]) -> None:
    schema = pa.schema([("row", pa.int64())])
    batches = [pa.record_batch({"row": pa.array(range(size), pa.int64())}) for size in sizes]
    groups = [group.num_rows for group in regroup(batches, schema)]
    assert sum(groups) == sum(sizes)
    assert all(size == ROWS_PER_GROUP for size in groups[:-1])
    assert all(groups)


def texts(sizes: list[int]) -> pa.RecordBatch:
    return pa.record_batch({"text": pa.array(["x" * size for size in sizes])})


@pytest.mark.parametrize("cut", [1, 3, 7, 100])
def test_regrouped_large_rows_make_small_groups_wherever_the_batches_are_cut(cut: int) -> None:
    half = BYTES_PER_GROUP // 2
    sizes = [half, half, half + 1, 5, half, 3 * BYTES_PER_GROUP, 1, 1, half]
    batches = [texts(sizes[start : start + cut]) for start in range(0, len(sizes), cut)]
    groups = [group.num_rows for group in regroup(batches, batches[0].schema)]
    assert groups == [2, 3, 1, 3]


@pytest.mark.parametrize("write", [write_parquet, write_arrow])
def test_write_large_rows_any_batch_size_gives_the_same_bytes(tmp_path: Path, write) -> None:
    rows = pa.table({"ids": pa.array([[number] * 1_000_000 for number in range(40)], pa.list_(pa.int32()))})
    write(tmp_path / "whole", rows)
    write(tmp_path / "batches", rows.to_batches(max_chunksize=7), rows.schema)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "batches").read_bytes()
    held = (
        [batch.num_rows for batch in read_parquet_batches(tmp_path / "whole")]
        if write is write_parquet
        else [17, 17, 6]
    )
    assert held == [17, 17, 6], "17 rows of 4 MB reach 64 MiB"


def test_row_sizes_counts_texts_and_items_at_any_depth() -> None:
    message = pa.struct([("role", pa.string()), ("content", pa.large_string()), ("train", pa.bool_())])
    rows = pa.table(
        {
            "id": pa.array(["abc", None, "é", ""]),
            "ids": pa.array([[1, 2], None, [], [3]], pa.list_(pa.int32())),
            "raw": pa.array([b"12345", b"", None, b"1"]),
            "messages": pa.array(
                [[{"role": "user", "content": "four", "train": True}] * 2, [], None, [{"role": None, "content": "x"}]],
                pa.list_(message),
            ),
        }
    )
    whole = rows.combine_chunks().to_batches()[0]
    expected = [3 + 8 + 5 + 16, 0, 2, 4 + 1 + 1]
    assert row_sizes(whole).tolist() == expected
    assert row_sizes(whole.slice(1, 3)).tolist() == expected[1:]
