"""Arrow tables on disk: written whole or not at all, the same bytes for the same rows, read memory-mapped where the format allows."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stages.arrow.row_groups import ROWS_PER_GROUP, RowGroups


def write_parquet(path: Path, rows: pa.Table | Iterable[pa.RecordBatch], schema: pa.Schema | None = None) -> None:
    """Write a table, or batches of `schema` as they come (memory stays bounded by one row group), as Parquet with zstd.

    Rows are regrouped (stages/arrow/row_groups.py), so the bytes do not depend on how the batches were cut.
    """
    if isinstance(rows, pa.Table):
        schema, rows = rows.schema, rows.to_batches()
    if schema is None:
        msg = "write_parquet needs the schema of the batches"
        raise TypeError(msg)
    temporary = path.with_name(f".{path.name}.partial")
    with (
        pq.ParquetWriter(temporary, schema, compression="zstd", write_statistics=False, store_schema=True) as writer,
        ThreadPoolExecutor(1) as thread,
    ):
        # one row group is compressed while the next one is made; the thread starts behind the first, when workers are forked
        done: Future[None] | None = None
        for table in regroup(rows, schema):
            if done:
                done.result()
            done = thread.submit(writer.write_table, table, row_group_size=ROWS_PER_GROUP)
        if done:
            done.result()
    temporary.replace(path)


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """The whole table, or the named columns of it."""
    return pq.read_table(path, columns=columns)


def count_rows(path: Path) -> int:
    """Rows of a Parquet file, by its footer."""
    rows: int = pq.read_metadata(path).num_rows
    return rows


def read_parquet_batches(
    path: Path, columns: list[str] | None = None, rows: int = ROWS_PER_GROUP
) -> Iterable[pa.RecordBatch]:
    """The table batch by batch, at most `rows` rows of one row group each: memory is bounded by one row group."""
    # pre_buffer, the default, keeps what it has read of all row groups: memory would grow with the file. Group by group,
    # since a batch would have rows of many groups where rows are large
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for group in range(file.num_row_groups):
            yield from file.iter_batches(rows, [group], columns)


@contextmanager
def open_arrow(path: Path, schema: pa.Schema) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """Write Arrow IPC in the **stream** format, which `datasets.Dataset.from_file` memory-maps as it is (it refuses the file format).

    Gives the function that writes a batch. The file is there when the block ends well.
    """
    temporary = path.with_name(f".{path.name}.partial")
    groups = RowGroups(schema)
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:

        def write(batch: pa.RecordBatch) -> None:
            for table in groups.add(batch):
                writer.write_table(table.combine_chunks())

        yield write
        for table in groups.flush():
            writer.write_table(table.combine_chunks())
    temporary.replace(path)


def read_arrow(path: Path) -> pa.Table:
    """The table of an Arrow IPC stream, memory-mapped: its buffers are the file's pages."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
        return reader.read_all()


def regroup(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterable[pa.Table]:
    """The same rows in tables of a row group each, however they came."""
    groups = RowGroups(schema)
    for batch in batches:
        yield from groups.add(batch)
    yield from groups.flush()
