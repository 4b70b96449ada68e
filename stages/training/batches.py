"""Micro-batches as the model takes them: rows padded to one length each, or one long row of conversations that cannot see each other.

A flat batch (`flattened`, `packed`) is one row. `packed_seq_lengths` says where its conversations begin and `position_ids` start
again there: that is what Unsloth's attention takes (unsloth/utils/packing.py): torch's variable-length kernel on CUDA in 16 bits,
one causal product a conversation elsewhere. An attention mask would switch it off. The first token of every conversation has no
label, so none is predicted from the conversation before; TRL's and Unsloth's own collators are not asked (they drop the lengths
of rows that have labels already).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stages.contracts.tokens import NOT_TRAINED
from stages.training.step_plan import Layout
from stages.training.token_rows import TokenRows

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class MicroBatch:
    """One forward and backward pass."""

    rows: list[int]
    """The rows in it, in their order."""
    inputs: "dict[str, torch.Tensor]"
    """What the model's forward takes."""
    sequences: int
    """Rows of the model's batch before they were laid one after the other: conversations, or packs of them."""
    labelled: int
    """Tokens that the loss counts: labelled, and not the first of their row, which nothing predicts."""


def make_batch(
    data: TokenRows, layout: Layout, sequences: Sequence[Sequence[int]], pad_id: int, pack_length: int | None
) -> MicroBatch:
    """The sequences of a micro-batch (see `stages.training.step_plan`) in the form that the layout has.

    Args:
        data: the rows.
        layout: as `train.layout`.
        sequences: row numbers; in `packed` each sequence is a pack.
        pad_id: an id to fill with; what it is makes no difference.
        pack_length: tokens of a pack: the batch then has that many for each sequence, whatever is in it.
    """
    rows = [row for sequence in sequences for row in sequence]
    if layout == "padded":
        inputs = pad_rows(data, rows, pad_id)
    else:
        inputs = flatten_rows(data, rows, pad_id, None if pack_length is None else pack_length * len(sequences))
    return MicroBatch(rows, inputs, len(sequences), int((inputs["labels"][:, 1:] != NOT_TRAINED).sum()))


def pad_rows(data: TokenRows, rows: Sequence[int], pad_id: int) -> "dict[str, torch.Tensor]":
    """input_ids, labels and attention_mask of shape (rows, longest), filled on the right."""
    import torch

    shape = (len(rows), max(data.lengths[row] for row in rows))
    batch = {
        "input_ids": torch.full(shape, pad_id),
        "attention_mask": torch.zeros(shape, dtype=torch.long),
        "labels": torch.full(shape, NOT_TRAINED),
    }
    for place, row in enumerate(rows):
        length = data.lengths[row]
        batch["input_ids"][place, :length] = torch.from_numpy(data.ids[row].astype("int64"))
        batch["attention_mask"][place, :length] = 1
        batch["labels"][place, :length] = torch.from_numpy(data.labels[row].astype("int64"))
    return batch


def flatten_rows(data: TokenRows, rows: Sequence[int], pad_id: int, length: int | None) -> "dict[str, torch.Tensor]":
    """input_ids, labels and position_ids of shape (1, tokens), and packed_seq_lengths, int32, one a conversation.

    With `length`, the rest is filled with a conversation of its own that has no label. Raises ValueError if the rows are longer.
    """
    import torch

    lengths = [data.lengths[row] for row in rows]
    total = sum(lengths)
    if length is not None and length < total:
        msg = f"{total} tokens do not fit into {length}"
        raise ValueError(msg)
    if length is not None and length > total:
        lengths.append(length - total)
    size = sum(lengths)
    ids, labels = torch.full((size,), pad_id), torch.full((size,), NOT_TRAINED)
    positions = torch.empty(size, dtype=torch.long)
    start = 0
    for place, part in enumerate(lengths):
        positions[start : start + part] = torch.arange(part)
        if place < len(rows):
            ids[start : start + part] = torch.from_numpy(data.ids[rows[place]].astype("int64"))
            labels[start + 1 : start + part] = torch.from_numpy(data.labels[rows[place]][1:].astype("int64"))
        start += part
    return {
        "input_ids": ids[None],
        "labels": labels[None],
        "position_ids": positions[None],
        "packed_seq_lengths": torch.tensor(lengths, dtype=torch.int32),
    }
