"""The rows of a Parquet or Arrow file (IPC, as a file or as a stream) as JSON, columns in the file's order. Memory is bounded by two batches of the file."""

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pyarrow as pa

from stages.core.errors import StageError
from stages.dataset_files.compression import wrong_ending
from stages.dataset_files.file_kinds import other_kind
from stages.dataset_files.json_rows import dumps
from stages.dataset_files.prefetch import read_ahead

ROWS = 1_000
"""Rows that are Python objects at a time."""
ENDS = {"Parquet": b"PAR1", "an Arrow file": b"ARROW1"}
"""How whole files end."""
READ_AHEAD = 2**20
"""Bytes of a column that are read at a time: a row group may be as large as the file."""


def read_columnar_rows(path: Path, name: str, ending: str) -> Iterator[tuple[int, bytes]]:
    """(1-based number of the row, the row as JSON). Raises StageError, which says after which row, for a file that cannot be read."""
    kind, batches = ("Parquet", read_parquet_batches) if ending == ".parquet" else ("Arrow", read_arrow_batches)
    with path.open("rb") as file:
        beginning = file.read(32)
    if not beginning:
        raise StageError(f"{name} is empty: 0 bytes, so no {kind} file")
    found = other_kind(beginning)
    if found != "Parquet" if kind == "Parquet" else found not in ("an Arrow file", "an Arrow stream"):
        raise wrong_ending(name, found or f"no {kind} file")
    done = 0
    try:
        for batch in read_ahead(batches(path)):
            if len(set(batch.schema.names)) < batch.num_columns:
                raise StageError(f"{name}: two columns have the same name")
            for start in range(0, batch.num_rows, ROWS):
                for row in to_python(batch.slice(start, ROWS)):
                    done += 1
                    yield done, dumps(row)
    except (pa.ArrowException, OSError, ValueError, OverflowError, RecursionError) as error:
        # Arrow's own text may quote values
        after = f" after row {done}" if done else ""
        why = f"cut off, damaged, or of another kind ({type(error).__name__})"
        if not done and has_no_end(path, found):
            why = "its end is missing (cut off, or not yet written whole); bring the whole file"
        raise StageError(f"{name} cannot be read as {kind}{after}: {why}") from error


def has_no_end(path: Path, kind: str | None) -> bool:
    """Whether a file lacks the mark that whole ones of its kind end in; an Arrow stream needs none."""
    mark = ENDS.get(kind or "")
    if mark is None or path.stat().st_size < len(mark):
        return mark is not None
    with path.open("rb") as file:
        file.seek(-len(mark), os.SEEK_END)
        return file.read() != mark


def read_parquet_batches(path: Path) -> Generator[pa.RecordBatch, None, None]:
    """The batches of a Parquet file."""
    import pyarrow.parquet as pq

    # pre_buffer, the default, keeps what it has read of all row groups: memory would grow with the file
    with pq.ParquetFile(path, buffer_size=READ_AHEAD, pre_buffer=False) as file:
        yield from file.iter_batches(batch_size=ROWS)


def read_arrow_batches(path: Path) -> Generator[pa.RecordBatch, None, None]:
    """The batches of an IPC file or stream, proven: what a damaged one points to may lie outside of it. Not memory-mapped: pages that were read would stay."""
    with pa.OSFile(str(path)) as file:
        whole = file.read(6) == b"ARROW1"
        file.seek(0)
        with (pa.ipc.open_file if whole else pa.ipc.open_stream)(file) as reader:
            batches = map(reader.get_batch, range(reader.num_record_batches)) if whole else reader
            for batch in batches:
                batch.validate(full=True)
                yield batch


def to_python(batch: pa.RecordBatch) -> list[dict[str, object]]:
    """The rows as Python objects; text that is not UTF-8 with lone surrogates in it, which `standardize` sets aside row by row."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        names = batch.schema.names
        columns = [decode_column(column) for column in batch.columns]
        return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def decode_column(column: pa.Array) -> list[object]:
    """A column's values, for one that may hold text that is not UTF-8."""
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        values = column.cast(pa.large_binary()).to_pylist()
        return [None if value is None else value.decode("utf-8", "surrogateescape") for value in values]
    if pa.types.is_struct(kind) and kind.num_fields:
        names = [kind.field(i).name for i in range(kind.num_fields)]
        rows = [
            dict(zip(names, values, strict=True)) for values in zip(*map(decode_column, column.flatten()), strict=True)
        ]
        return [row if valid else None for row, valid in zip(rows, column.is_valid().to_pylist(), strict=True)]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        values, at, lists = decode_column(column.flatten()), 0, []
        for length in column.value_lengths().to_pylist():
            lists.append(None if length is None else values[at : at + length])
            at += length or 0
        return list(lists)
    return list(column.to_pylist())
