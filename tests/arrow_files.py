"""Arrow files for tests, as the stages write them."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from stages.arrow.tables import open_arrow


def write_arrow(path: Path, rows: pa.Table | Iterable[pa.RecordBatch], schema: pa.Schema | None = None) -> None:
    """A table, or batches of `schema`, as one file."""
    if isinstance(rows, pa.Table):
        schema, rows = rows.schema, rows.to_batches()
    with open_arrow(path, schema) as write:
        for batch in rows:
            write(batch)
