"""Rows cut into groups that depend on the rows alone: the row groups of Parquet files and the record batches of Arrow files.

Whoever reads or writes a file holds a group or two of it, so a group has few rows where they are large.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

ROWS_PER_GROUP = 10_000
"""Rows of a group, at most. Fixed, since it shapes the bytes of the file."""
BYTES_PER_GROUP = 64 * 2**20
"""Bytes of lists and texts with which a group is full, whatever its rows. Fixed as well."""

TEXTS = (pa.types.is_string, pa.types.is_binary, pa.types.is_large_string, pa.types.is_large_binary)


class RowGroups:
    """Batches of one schema in; tables of exactly ROWS_PER_GROUP rows, or of the rows that reach BYTES_PER_GROUP, out."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.held: list[pa.RecordBatch] = []
        self.rows = self.bytes = 0

    def add(self, batch: pa.RecordBatch) -> Iterator[pa.Table]:
        """The groups that are full with this batch."""
        sizes = row_sizes(batch)
        start = 0
        while start < batch.num_rows:
            reached = sizes[start : start + ROWS_PER_GROUP - self.rows].cumsum() + self.bytes
            taken = min(int(reached.searchsorted(BYTES_PER_GROUP)) + 1, len(reached))
            self.held.append(batch.slice(start, taken))
            self.rows += taken
            self.bytes = int(reached[taken - 1])
            start += taken
            if self.rows == ROWS_PER_GROUP or self.bytes >= BYTES_PER_GROUP:
                yield from self.flush()

    def flush(self) -> Iterator[pa.Table]:
        """What is held, the last group, if there is any; nothing is held afterwards."""
        if self.rows:
            yield pa.Table.from_batches(self.held, schema=self.schema)
        self.held, self.rows, self.bytes = [], 0, 0


def row_sizes(batch: pa.RecordBatch) -> NDArray[np.int64]:
    """By row, the bytes of its texts and of its lists' items."""
    sizes = np.zeros(batch.num_rows, np.int64)
    for column in batch.columns:
        sizes += value_sizes(column)
    return sizes


def value_sizes(values: pa.Array) -> NDArray[np.int64]:
    """By value, the bytes that are not the same for all values of its type."""
    kind = values.type
    if pa.types.is_struct(kind):
        sizes = [value_sizes(field) for field in values.flatten()]
        return np.asarray(np.sum([np.zeros(len(values), np.int64), *sizes], axis=0), np.int64)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        items = values.values
        width = items.type.bit_width // 8 if pa.types.is_primitive(items.type) else 0
        places = offsets_of(values)
        return np.diff(places * width if width else np.concatenate([[0], value_sizes(items).cumsum()])[places])
    if any(of(kind) for of in TEXTS):
        return np.diff(offsets_of(values))
    return np.zeros(len(values), np.int64)


def offsets_of(values: pa.Array) -> NDArray[np.int64]:
    """Where lists or texts begin in their items; one more than there are values."""
    wide = pa.types.is_large_list(values.type) or any(of(values.type) for of in TEXTS[2:])
    buffer = values.buffers()[1]
    if not len(values) or buffer is None:
        return np.zeros(len(values) + 1, np.int64)
    offsets = np.frombuffer(buffer, np.int64 if wide else np.int32)[values.offset :]
    return np.asarray(offsets[: len(values) + 1], np.int64)
