"""Which rows a page shows, and trained conversations as the model sees them."""

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


def read_conversations(tokens: Path, ledger: pa.Table, count: int, private: pa.Array) -> list[dict[str, Any]]:
    """Rows that were trained, evenly spread, as the model sees them: {row_id, tokens, labelled_tokens, steps: how many it stood in, runs,
    left_out: tokens not shown}.

    `ledger`: of the training. `private`: ids of rows that are not shown.
    """
    if not count:
        return []
    reached = ledger.filter(pc.greater(pc.list_value_length(ledger["steps"]), 0)).combine_chunks()
    table = token_files.read_tokens(tokens / token_files.TRAIN)
    ids = table["row_id"]
    # the numbers of the rows alone: the tokens of all that were trained may be more than the memory
    shown_too = pc.and_(pc.is_in(ids, reached["row_id"].combine_chunks()), pc.invert(pc.is_in(ids, private)))
    places = pc.indices_nonzero(shown_too).to_pylist()
    tokenizer = Tokenizer.from_file(str(tokens / token_files.TOKENIZER / "tokenizer.json"))
    controls = control_ids(tokenizer)
    shown = []
    for number in spread(len(places), count):
        row = table.slice(places[number], 1).to_pylist()[0]
        steps = reached["steps"][pc.index(reached["row_id"], row["row_id"]).as_py()]
        tokens_of, labels = row["input_ids"], row["labels"]
        shown.append(
            {
                "row_id": row["row_id"],
                "tokens": len(tokens_of),
                "labelled_tokens": sum(label != token_files.NOT_TRAINED for label in labels),
                "steps": len(steps),
                "runs": token_runs(tokenizer, controls, tokens_of[:SHOWN_TOKENS], labels[:SHOWN_TOKENS]),
                "left_out": max(len(tokens_of) - SHOWN_TOKENS, 0),
            }
        )
    return shown
