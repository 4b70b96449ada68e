"""data/tokens: dialogues as ids and labels, and the tokenizer of all later stages. Written by `template`, read by every model stage."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.arrow.tables import read_arrow
from stages.contracts.origin import ORIGIN

TRAIN = "train.arrow"
HELDOUT = "heldout.arrow"
REJECTED = "rejected.parquet"
SUMMARY = "summary.json"
"""What `stages.template.template` says in its docstring; the counts of a split add up to those of data/messages."""
TOKENIZER = "tokenizer"
"""A folder that AutoTokenizer loads, with the chat template that was used, its date pinned."""

NOT_TRAINED = -100
"""The label of a token that bears no loss."""


class AnswerForm(TypedDict):
    """What the shipped template writes between its generation prompt and an answer, white space at the edges left out: summary.json's `answer`.

    A model that was trained on it says it, and it is none of the answer that people read.
    """

    gap: str
    """Before an answer without thoughts, such as `<|channel|>final<|message|>`; empty: nothing."""
    opens: str
    """Before thoughts, such as `<think>`; empty: they come at once, or the template writes none."""
    closes: str
    """Between thoughts and answer, such as `</think>`; empty: the template writes no thoughts."""
    ends: str
    """Between an answer and the token that generation stops at; empty in nearly all templates."""


SPLITS = {"train": TRAIN, "heldout": HELDOUT}

IDS = pa.list_(pa.field("item", pa.int32(), nullable=False))
SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        pa.field("input_ids", IDS, nullable=False),
        pa.field("labels", IDS, nullable=False),
    ]
)
"""`labels` is as long as `input_ids`: the id itself where it is trained, else NOT_TRAINED; not shifted.

The two .arrow files are Arrow IPC in the stream format: `datasets.Dataset.from_file` memory-maps that one and refuses the other.
"""

REJECTED_SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        *ORIGIN,
        pa.field("split", pa.string(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
    ]
)


def read_tokens(path: Path) -> pa.Table:
    """train.arrow or heldout.arrow, memory-mapped. Raises ValueError if its columns are not SCHEMA's."""
    try:
        table = read_arrow(path)
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        msg = f"data/tokens/{path.name} is cut off or damaged: `retune restore template` brings it back"
        raise ValueError(msg) from error
    if not table.schema.equals(SCHEMA):
        msg = f"{path.name} has the columns {table.schema.names}, not those of data/tokens; run `dvc repro template`"
        raise ValueError(msg)
    return table


def count_labelled(rows: pa.Table) -> pa.Array:
    """int64, one a row: how many of its tokens carry a label."""
    counts = [np.zeros(0, np.int64)]
    for batch in rows.to_batches():
        labels = batch.column(batch.schema.get_field_index("labels"))
        lengths = pc.list_value_length(labels).to_numpy()
        some = lengths > 0  # of an empty row reduceat would count its neighbour's first
        starts = (np.cumsum(lengths, dtype=np.int64) - lengths)[some]
        found = np.zeros(len(lengths), np.int64)
        if starts.size:
            found[some] = np.add.reduceat(labels.flatten().to_numpy() != NOT_TRAINED, starts, dtype=np.int64)
        counts.append(found)
    return pa.array(np.concatenate(counts))


def answers(input_ids: Sequence[int], labels: Sequence[int]) -> list[tuple[int, int]]:
    """The trained spans of a row: (prompt_end, answer_end) each, so that the prompt is input_ids[:prompt_end] and the
    answer with its end-of-turn token input_ids[prompt_end:answer_end]. Raises ValueError if a label is no id of its own.
    """
    if len(input_ids) != len(labels):
        msg = f"{len(labels)} labels for {len(input_ids)} ids"
        raise ValueError(msg)
    spans: list[tuple[int, int]] = []
    start: int | None = None
    for index, (token, label) in enumerate(zip(input_ids, labels, strict=True)):
        if label == NOT_TRAINED:
            if start is not None:
                spans.append((start, index))
            start = None
        elif label != token:
            msg = f"label {index} is {label}, but the id there is {token}"
            raise ValueError(msg)
        elif start is None:
            start = index
    if start is not None:
        spans.append((start, len(labels)))
    return spans
