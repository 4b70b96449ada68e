"""The training rows as the trainer reads them: memory-mapped, checked, each row's ids and labels without a copy."""

from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from stages.contracts.tokens import count_labelled
from stages.core.errors import StageError

if TYPE_CHECKING:
    import numpy as np

NAMED_ROWS = 8
"""Row ids that an error names at most."""


class TokenRows:
    """The rows of train.arrow or heldout.arrow by number."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.row_ids: list[str] = table["row_id"].to_pylist()
        self.lengths: list[int] = pc.list_value_length(table["input_ids"]).to_pylist()
        """Tokens of each row."""
        self.labelled: list[int] = count_labelled(table).to_pylist()
        """Tokens of each row that carry a label."""
        self.ids = Lists(table["input_ids"])
        self.labels = Lists(table["labels"])

    def __len__(self) -> int:  # noqa: D105
        return len(self.row_ids)


class Lists:
    """A column of lists of int32 by row number, each a view of the file's memory."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.ends = list(accumulate(len(chunk) for chunk in column.chunks))
        self.parts = [(chunk.offsets.to_numpy(), chunk.values.to_numpy()) for chunk in column.chunks]

    def __getitem__(self, row: int) -> "np.ndarray[tuple[int], np.dtype[np.int32]]":  # noqa: D105
        part = bisect_right(self.ends, row)
        offsets, values = self.parts[part]
        place = row - (self.ends[part - 1] if part else 0)
        view: np.ndarray[tuple[int], np.dtype[np.int32]] = values[offsets[place] : offsets[place + 1]]
        return view


def check_rows(rows: pa.Table, config: Mapping[str, object], embedding_rows: int, pack_length: int | None) -> None:
    """Raise StageError unless every row can be trained on: labels, as many as ids, ids that exist, a length that model and pack take."""
    if rows.num_rows == 0:
        raise StageError(
            "data/tokens has no training rows; standardize's and template's rejected.parquet say where the rows went"
        )
    lengths = pc.list_value_length(rows["input_ids"])
    uneven = pc.not_equal(lengths, pc.list_value_length(rows["labels"]))
    refuse(rows, uneven, "have fewer or more labels than tokens; run template again")
    limit = config.get("max_position_embeddings")
    if isinstance(limit, int):
        refuse(
            rows,
            pc.greater(lengths, limit),
            f"are longer than the {limit} positions of the model; lower template.max_length",
        )
    if pack_length is not None:
        longest = pc.max(lengths).as_py()
        refuse(
            rows,
            pc.greater(lengths, pack_length),
            f"are longer than a pack (train.pack_length is {pack_length}, the longest row has {longest} tokens); "
            "raise train.pack_length, or lower template.max_length",
        )
    refuse(rows, pc.equal(count_labelled(rows), 0), "have no labelled token, so nothing would be learned from them")
    highest = pc.max(pc.list_flatten(rows["input_ids"])).as_py()
    if highest >= embedding_rows:
        raise StageError(
            f"data/tokens holds token id {highest}, but the model knows {embedding_rows}: the tokenizer belongs to another model"
        )


def refuse(rows: pa.Table, bad: pa.ChunkedArray, what: str) -> None:
    """Raise StageError that names the rows where `bad` is true."""
    found = rows.filter(bad)["row_id"].to_pylist()
    if found:
        raise StageError(f"{name_rows(found)} of data/tokens {what}")


def name_rows(row_ids: list[str]) -> str:
    """`row ID` or `rows ID, ID, ... and N more`, for errors."""
    more = f" and {len(row_ids) - NAMED_ROWS} more" if len(row_ids) > NAMED_ROWS else ""
    return ("row " if len(row_ids) == 1 else "rows ") + ", ".join(row_ids[:NAMED_ROWS]) + more
