"""The importance matrix of the merged model over its training rows: which inputs of each matrix the rows use, and how strongly.

The same sums that llama.cpp's llama-imatrix takes (a test compares the two), over the rows' own ids, each row a sequence of its own
as it was in training. In fp32 and with one decoder layer's weights in memory at a time (stages/weights/layerwise.py).
"""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from stages.contracts.gguf import ImatrixChecks
from stages.contracts.tokens import TRAIN, read_tokens
from stages.core.errors import StageError
from stages.core.execution import note_choice
from stages.core.files import sha256_file
from stages.gguf_export.folder_tensors import read_weights
from stages.gguf_export.tensor_check import names_in_file
from stages.llama_cpp.gguf_reader import open_gguf, read_architecture, read_hparams
from stages.llama_cpp.imatrix_file import write_importance
from stages.llama_cpp.quantize import Overrides
from stages.llama_cpp.tensor_types import is_quantized
from stages.show.progress import Advance, progress
from stages.weights.layerwise import run_layers
from stages.weights.meta_model import Unfit, build_meta_model, check_names
from stages.weights.shards import read_headers
from stages.weights.variants import Variant

if TYPE_CHECKING:
    import torch

log = logging.getLogger("retune")

IMATRIX = "imatrix.gguf"
STATES_BYTES = 1 << 30
"""Of the hidden states that are in memory at once: rows go through the layers in groups that fit, each of which reads the weights again."""


def compute_imatrix(
    merged: Path, tokens: Path, source: Path, target: Path, limit: int, place: str, says: Overrides
) -> ImatrixChecks:
    """Compute an importance matrix and write it.

    Args:
        merged: a transformers folder.
        tokens: data/tokens.
        source: the merged model's GGUF file, unquantized: which matrices there are.
        target: the file to write.
        limit: tokens to take; less if there are not as many.
        place: cuda or cpu.
        says: the file's metadata: what made it.

    Raises:
        StageError: there is no training row, or not every matrix of the model's layers can be watched.
    """
    note_choice({"runtime.device": place}, f"what this machine has: {place}")
    rows = read_training_rows(tokens / TRAIN, limit)
    count = sum(map(len, rows))
    reader = open_gguf(source)
    if read_hparams(reader).experts:
        raise StageError(
            "an importance matrix is not computed for models with experts, whose matrices see the tokens that are routed to them alone; "
            "set `gguf.imatrix` to none"
        )
    there = read_weights(merged)
    names = {
        folder.removesuffix(".weight"): file
        for file, folder in names_in_file(read_architecture(reader), read_hparams(reader).layers, there).items()
        if file.startswith("blk.") and is_quantized(file, len(there[folder].shape))
    }
    write_importance(target, sum_squares(merged, rows, names, place), count, len(rows), says)
    log.info("importance matrix: %d tokens of %d training rows", count, len(rows))
    return ImatrixChecks(file=target.name, rows=len(rows), tokens=count, sha256=sha256_file(target))


def read_training_rows(path: Path, limit: int) -> list[list[int]]:
    """Ids of rows with `limit` tokens in all, the last row cut there; rows in the order of their ids, which are hashes: as if drawn."""
    table = read_tokens(path)
    found: list[list[int]] = []
    left = limit
    for number in pc.sort_indices(table.column("row_id")).to_pylist():
        ids = table.column("input_ids")[number].as_py()[:left]
        found.append(ids)
        left -= len(ids)
        if not left:
            break
    if not found:
        raise StageError(
            "data/tokens holds no training row to compute an importance matrix over; set `gguf.imatrix` to none"
        )
    return found


class SquareSums:
    """Sums over the tokens that go through a model's linear layers.

    Args:
        names: {module: matrix in the GGUF file}.
        advance: told of each token that a matrix has seen.
    """

    def __init__(self, names: Mapping[str, str], advance: Advance = lambda _: None) -> None:
        self.names = names
        self.advance = advance
        self.sums: dict[str, torch.Tensor] = {}
        """{matrix: sums of its inputs' squares, float64, shape [columns]}."""
        self.seen = dict.fromkeys(names.values(), 0)
        """{matrix: tokens}."""

    def attach(self, model: "torch.nn.Module") -> None:
        """Watch a model's linear layers from now on."""
        import torch

        for module, layer in model.named_modules():
            if module in self.names and isinstance(layer, torch.nn.Linear):
                layer.register_forward_pre_hook(partial(self.add, self.names[module]))

    def add(self, name: str, _: "torch.nn.Module", given: "tuple[torch.Tensor, ...]") -> None:
        """Add one input, shape [..., columns]."""
        import torch

        values = given[0].detach().reshape(-1, given[0].shape[-1])
        more = values.float().square().sum(0, dtype=torch.float64)
        self.sums[name] = self.sums[name] + more if name in self.sums else more
        self.seen[name] += values.shape[0]
        self.advance(values.shape[0])


def sum_squares(
    merged: Path, rows: Sequence[Sequence[int]], names: Mapping[str, str], place: str
) -> dict[str, NDArray[np.float64]]:
    """{matrix in the GGUF file: the sums of its inputs' squares over all tokens}; `names`: {module: matrix in the GGUF file}.

    Raises StageError where a module is no linear layer, or sees another number of tokens than there are.
    """
    count = sum(map(len, rows))
    with progress("importance matrix", count * len(names), "inputs") as advance:
        squares = SquareSums(names, advance)
        try:
            run_by_layers(merged, rows, squares, place)
        except Unfit as reason:
            log.info("importance matrix: the model is run whole, since %s", reason)
            squares = SquareSums(names, advance)
            run_whole(merged, rows, squares, place)
    other = sorted(name for name, tokens in squares.seen.items() if tokens != count)
    if other:
        raise StageError(
            f"an importance matrix cannot be computed for {other[0]}{' and others' if len(other) > 1 else ''}: it is no plain linear layer of the "
            "transformers model; set `gguf.imatrix` to none"
        )
    return {name: total.cpu().numpy() for name, total in squares.sums.items()}


def run_by_layers(merged: Path, rows: Sequence[Sequence[int]], squares: SquareSums, place: str) -> None:
    """Run rows through the model, layer by layer, group by group. Raises Unfit if its architecture does not allow it."""
    files = read_headers(sorted(merged.glob("*.safetensors")))
    first = build_meta_model(merged)
    check_names(first, files)
    for group in group_rows(rows, first.model.config.get_text_config().hidden_size):
        meta_model = build_meta_model(merged)
        squares.attach(meta_model.model)
        run_layers(meta_model, Variant(files), [(ids, [len(ids) - 1]) for ids in group], place)


def group_rows(rows: Sequence[Sequence[int]], width: int) -> list[list[Sequence[int]]]:
    """Rows in groups whose hidden states, before and after a layer, take STATES_BYTES at most."""
    most = max(1, STATES_BYTES // (2 * 4 * width))
    found: list[list[Sequence[int]]] = []
    free = 0
    for ids in rows:
        if len(ids) > free:
            found.append([])
            free = most
        found[-1].append(ids)
        free -= len(ids)
    return found


def run_whole(merged: Path, rows: Sequence[Sequence[int]], squares: SquareSums, place: str) -> None:
    """Run rows through the model, all of it in memory."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        merged, dtype=torch.float32, local_files_only=True, trust_remote_code=False
    ).to(place)
    model.eval()
    squares.attach(model)
    with torch.inference_mode():
        for ids in rows:
            model(input_ids=torch.tensor([list(ids)], device=place), use_cache=False, logits_to_keep=1)
