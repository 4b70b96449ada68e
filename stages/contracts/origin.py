"""Where a conversation comes from: the columns that carry it from data/raw to the lists of rejected rows."""

import pyarrow as pa

ORIGIN = [
    # the row in data/raw, and where it stood there: the index in source.json's `sources`, file, line
    pa.field("row", pa.int64(), nullable=False),
    pa.field("source", pa.int32(), nullable=False),
    pa.field("file", pa.string(), nullable=False),
    pa.field("line", pa.int64(), nullable=False),
]
