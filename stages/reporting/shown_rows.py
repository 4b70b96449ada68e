"""Which rows a page shows, and training conversations as the model sees them."""

from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer

from stages.contracts import tokens as token_files
from stages.reporting.token_view import control_ids, spread, token_runs

SHOWN_TOKENS = 800
"""Of one conversation, at most."""


def find_private_rows(rows: pa.Table, flags: AbstractSet[str]) -> pa.Array:
    """The ids of the rows whose text is shown nowhere: those with one of these flags."""
    flagged = rows.filter(pc.is_valid(rows["flags"])).to_pylist()
    return pa.array([row["row_id"] for row in flagged if flags & set(row["flags"])], pa.string())


def leave_out(rows: pa.Table, private: pa.Array) -> pa.Table:
    """The rows that may be shown."""
    return rows.filter(pc.invert(pc.is_in(rows["row_id"], private)))


def read_conversations(tokens: Path, count: int, private: pa.Array) -> list[dict[str, Any]]:
    """Training rows, evenly spread, as the model sees them: {row_id, tokens, trained_tokens, runs, left_out: tokens not shown}.

    `private`: ids of rows that are not shown.
    """
    if not count:
        return []
    table = leave_out(token_files.read_tokens(tokens / token_files.TRAIN), private)
    tokenizer = Tokenizer.from_file(str(tokens / token_files.TOKENIZER / "tokenizer.json"))
    controls = control_ids(tokenizer)
    shown = []
    for place in spread(table.num_rows, count):
        row = table.slice(place, 1).to_pylist()[0]
        ids, labels = row["input_ids"], row["labels"]
        shown.append(
            {
                "row_id": row["row_id"],
                "tokens": len(ids),
                "trained_tokens": sum(label != token_files.NOT_TRAINED for label in labels),
                "runs": token_runs(tokenizer, controls, ids[:SHOWN_TOKENS], labels[:SHOWN_TOKENS]),
                "left_out": max(len(ids) - SHOWN_TOKENS, 0),
            }
        )
    return shown
