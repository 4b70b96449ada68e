"""data/raw: the rows of all sources as they came. Written by `fetch_data`, read by `standardize`."""

import pyarrow as pa

ROWS = "rows.parquet"
"""One row for each row of the sources, source by source, file by file, in their order."""

SOURCE = "source.json"
"""Where the rows come from: {limit, rows, sources: [{source, revision, config, split, columns, weight, max_rows, files: {name: sha256}, rows_seen, rows}]}.

`rows_seen`: rows that the source's files hold (as far as they were read: a limit stops reading); `rows`: those taken from it.
"""

SCHEMA = pa.schema(
    [
        # 0-based position in this table
        pa.field("row", pa.int64(), nullable=False),
        # where it comes from: the index in source.json's `sources`, the file's name, and 1-based the line at which the row
        # begins in a text file that has a row a line (.jsonl, .csv), else its number in the file
        pa.field("source", pa.int32(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("line", pa.int64(), nullable=False),
        # the row as JSON; for .jsonl and .json the bytes exactly as they came, even if they are no JSON
        pa.field("record", pa.binary(), nullable=False),
    ]
)
