"""How many rows are flagged, and where the first ones stand: what summary.json says of flags."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stages.conversations.row_rules import FLAGS, SAME_ANSWER

PLACES = 3
"""Rows that are named of each flag, the first of them."""
PLACE = ["row_id", "source", "file", "line"]

COMMON_SHARE, COMMON_ROWS = 0.01, 3
"""An answer is told of that more than this share of the rows have, and so many rows at least."""


class FlagCounts:
    """What is counted of the flags. Memory: a few places."""

    def __init__(self, sources: Sequence[str]) -> None:
        """`sources`: their names."""
        self.sources = sources
        self.rows: Counter[str] = Counter()
        self.places: dict[str, list[dict[str, Any]]] = {flag: [] for flag in FLAGS}

    def watch(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The same rows, their flags counted as they pass."""
        for batch in batches:
            flags = batch["flags"]
            if flags.null_count < len(flags):
                self.add_rows(batch.select(PLACE), flags)
            yield batch

    def add_rows(self, rows: pa.RecordBatch, flags: pa.ListArray) -> None:
        """Count rows by their flags, null where there are none."""
        parents, values = pc.list_parent_indices(flags).to_numpy(), flags.flatten()
        for flag in values.unique().to_pylist():
            mine = parents[np.asarray(pc.equal(values, flag).to_numpy(zero_copy_only=False), np.bool_)]
            self.rows[flag] += len(mine)
            self.add_places(flag, rows.take(pa.array(mine[:PLACES])))

    def add_places(self, flag: str, rows: pa.RecordBatch | pa.Table) -> None:
        """Name rows as places, until there are enough."""
        for row in rows.slice(0, PLACES - len(self.places[flag])).to_pylist():
            self.places[flag].append({**row, "source": self.sources[row["source"]]})

    def add_set_aside(self, rejected: pa.Table) -> None:
        """Count the rows that were set aside for a flag, of data/messages' rejected.parquet."""
        for flag in FLAGS:
            mine = rejected.filter(pc.equal(rejected["rule"], flag))
            self.rows[flag] += mine.num_rows
            self.add_places(flag, mine.select(PLACE))

    def add_common_answers(self, rows: NDArray[np.int32], path: Path) -> None:
        """Count the rows whose answer many others have.

        Args:
            rows: by their place among those that are written.
            path: messages.parquet.
        """
        self.rows[SAME_ANSWER] = len(rows)
        with pq.ParquetFile(path, pre_buffer=False) as file:
            for row in rows[:PLACES].tolist():
                self.add_places(SAME_ANSWER, read_row(file, row))

    def summarize(self) -> Mapping[str, Any]:
        """`flags` of data/messages' summary.json."""
        return {flag: {"rows": self.rows[flag], "places": self.places[flag]} for flag in FLAGS if self.rows[flag]}

    def describe(self) -> str:
        """One line for the log; empty where no row is flagged."""
        found = ", ".join(f"{self.rows[flag]} {flag}" for flag in FLAGS if self.rows[flag])
        return f"flagged rows: {found}; data/messages/summary.json names the first ones" if found else ""


def read_row(file: pq.ParquetFile, row: int) -> pa.Table:
    """The columns of PLACE of one row."""
    for group in range(file.num_row_groups):
        size = file.metadata.row_group(group).num_rows
        if row < size:
            return file.read_row_group(group, PLACE).slice(row, 1)
        row -= size
    raise IndexError(row)
