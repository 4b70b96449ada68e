"""data/raw: the dataset as it came. Written by `fetch_data`, read by `standardize`."""

import pyarrow as pa

ROWS = "rows.parquet"
"""One row for each row of the source, in its order."""

SOURCE = "source.json"
"""Where the rows come from: {source, revision, config, split, limit, files: {name: sha256}, rows}."""

SCHEMA = pa.schema(
    [
        # 0-based position among the source's rows (blank lines are none)
        pa.field("row", pa.int64(), nullable=False),
        # the row as JSON; for .jsonl the bytes of the line exactly as they came, even if they are no JSON
        pa.field("record", pa.binary(), nullable=False),
    ]
)
