"""Arrow tables on disk: written whole or not at all, the same bytes for the same rows, read memory-mapped where the format allows."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROWS_PER_GROUP = 10_000
"""Rows of a Parquet row group and of an Arrow record batch. Fixed, since it shapes the bytes of the file."""


def write_parquet(path: Path, rows: pa.Table | Iterable[pa.RecordBatch], schema: pa.Schema | None = None) -> None:
    """Write a table, or batches of `schema` as they come (memory stays bounded by one row group), as Parquet with zstd.

    Rows are regrouped into groups of ROWS_PER_GROUP, so the bytes do not depend on how the batches were cut.
    """
    if isinstance(rows, pa.Table):
        schema, rows = rows.schema, rows.to_batches()
    if schema is None:
        msg = "write_parquet needs the schema of the batches"
        raise TypeError(msg)
    temporary = path.with_name(f".{path.name}.partial")
    with pq.ParquetWriter(temporary, schema, compression="zstd", write_statistics=False, store_schema=True) as writer:
        for table in regrouped(rows, schema):
            writer.write_table(table, row_group_size=ROWS_PER_GROUP)
    temporary.replace(path)


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """The whole table, or the named columns of it."""
    return pq.read_table(path, columns=columns)


def parquet_batches(
    path: Path, columns: list[str] | None = None, rows: int = ROWS_PER_GROUP
) -> Iterable[pa.RecordBatch]:
    """The table batch by batch, at most `rows` rows each: memory is bounded by the batch and one row group."""
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=rows, columns=columns)


def write_arrow(path: Path, rows: pa.Table | Iterable[pa.RecordBatch], schema: pa.Schema | None = None) -> None:
    """Write Arrow IPC in the **stream** format: what `datasets.Dataset.from_file` memory-maps as it is (it refuses the file format)."""
    if isinstance(rows, pa.Table):
        schema, rows = rows.schema, rows.to_batches()
    if schema is None:
        msg = "write_arrow needs the schema of the batches"
        raise TypeError(msg)
    temporary = path.with_name(f".{path.name}.partial")
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for table in regrouped(rows, schema):
            writer.write_table(table.combine_chunks())
    temporary.replace(path)


def read_arrow(path: Path) -> pa.Table:
    """The table of an Arrow IPC stream, memory-mapped: its buffers are the file's pages."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
        return reader.read_all()


def regrouped(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterable[pa.Table]:
    """The same rows in tables of exactly ROWS_PER_GROUP rows (the last may be shorter), however they came."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += batch.num_rows
        while count >= ROWS_PER_GROUP:
            table = pa.Table.from_batches(held, schema=schema)
            yield table.slice(0, ROWS_PER_GROUP)
            rest = table.slice(ROWS_PER_GROUP)
            held, count = rest.to_batches(), rest.num_rows
    if count:
        yield pa.Table.from_batches(held, schema=schema)
