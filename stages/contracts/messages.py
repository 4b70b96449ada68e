"""data/messages: conversations as role/content messages, each in train or heldout. Written by `standardize`, read by `template` and `audit`."""

import pyarrow as pa

MESSAGES = "messages.parquet"
REJECTED = "rejected.parquet"
EXCLUDED = "excluded.parquet"
SUMMARY = "summary.json"
"""Counts: {raw, train, heldout, rejected, excluded, rules: {rule: rows}, dialects: {layout: rows kept}}; raw is the sum of the next four."""

ROLES = ("system", "user", "assistant", "tool")
SPLITS = ("train", "heldout")
ID_LENGTH = 32
"""Hex characters of a row id: the first half of the sha256 of the conversation's canonical JSON."""

MESSAGE = pa.struct([pa.field("role", pa.string(), nullable=False), pa.field("content", pa.string(), nullable=False)])

SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("messages", pa.list_(pa.field("element", MESSAGE, nullable=False)), nullable=False),
    ]
)

REJECTED_SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
    ]
)

EXCLUDED_SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
