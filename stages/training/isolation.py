"""Proof, before the first step, that this model keeps the conversations of a flat batch apart: not every model of every release does."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stages.contracts.tokens import NOT_TRAINED
from stages.core.errors import StageError
from stages.training.batches import flatten_rows
from stages.training.token_rows import TokenRows

if TYPE_CHECKING:
    import torch

SAME = 1e-3
"""Difference of a loss, relative, that is rounding: found: 0 with boundaries, 1e-2 without, on a tiny random model in fp32."""


def check_apart(
    model: "torch.nn.Module", data: TokenRows, prepare: Callable[[dict[str, Any]], dict[str, Any]], pad_id: int
) -> None:
    """Raise StageError if the loss of one conversation depends on what stands before it in the same row.

    Two forward passes over the longest and the shortest row; random generators are left as they were.

    Args:
        model: takes flat batches.
        data: two rows or more; with one there is nothing to keep apart.
        prepare: brings a batch to the model's device.
        pad_id: as `stages.training.batches.flatten_rows` takes it.
    """
    import torch

    if len(data) < 2:  # noqa: PLR2004
        return
    order = sorted(range(len(data)), key=data.lengths.__getitem__)
    before, after = order[-1], order[0]
    length = data.lengths[before]
    model.train()
    losses = []
    for other in (False, True):
        batch = flatten_rows(data, [before, after], pad_id, None)
        batch["labels"][0, :length] = NOT_TRAINED
        if other:
            batch["input_ids"][0, :length] = batch["input_ids"][0, :length].flip(0)
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            losses.append(float(model(**prepare(batch), use_cache=False).loss))
    if abs(losses[0] - losses[1]) > SAME * abs(losses[0]):
        raise StageError(
            f"in this model a conversation sees the one before it in a flat batch (its loss is {losses[0]:.4f} or {losses[1]:.4f}, by what "
            "stands before): set train.layout to padded"
        )
