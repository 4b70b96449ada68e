"""Whether a merged model answers like base + adapter: logits and losses at labelled positions of held-out rows, in fp32.

Layer by layer (stages/weights/layerwise.py), so that one layer and a part of the vocabulary are in memory, never a model. Base + adapter is PEFT's
own arithmetic, which knows nothing of how the merge was done. An architecture that does not fit is checked with whole models.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stages.contracts import adapter as adapter_files
from stages.contracts import merged as contract
from stages.contracts import tokens as token_files
from stages.core.errors import StageError
from stages.core.execution import note_choice, note_figures
from stages.core.files import read_json
from stages.core.params import Runtime
from stages.merging.logit_comparison import LogitComparison, concatenate
from stages.models.base_model import device, load_base, parameter_count, weight_files
from stages.models.safetensors_header import read_header
from stages.weights.folding import Update
from stages.weights.layerwise import run_layers
from stages.weights.meta_model import Unfit, build_meta_model, check_names, linear_weights
from stages.weights.nf4 import Nf4
from stages.weights.shards import read_headers
from stages.weights.variants import Variant

if TYPE_CHECKING:
    import torch

log = logging.getLogger("retune")

POSITIONS_PER_ROW = 128
"""Labelled positions of a row that are compared, the first of them: what comes after them need not be calculated."""

BASE, ADAPTER, MERGED = "the base", "base + adapter", "the merged model"
BASE_4BIT, ADAPTER_4BIT = "the NF4 base", "NF4 base + adapter"
MERGED_OTHER = "the merge that is not written"

VALUES = 1 << 21
"""Values of the head, and logits of one model, in memory at once."""


@dataclass(frozen=True)
class CheckRow:
    """One row of the check."""

    ids: list[int]
    """Up to the last position."""
    positions: list[int]
    """The places that predict a labelled token."""
    targets: list[int]
    """These tokens."""


def read_training_nf4(base: Path, adapter: Path, place: str) -> Nf4 | None:
    """The base's weights that were quantized for training; None if it was trained in 16 or 32 bit. Raises Unfit if they cannot be named."""
    training: adapter_files.Training = read_json(adapter / adapter_files.TRAINING)
    if not training["load_in_4bit"]:
        return None
    meta_model = build_meta_model(base)
    check_names(meta_model, read_headers(weight_files(base)))
    return Nf4(linear_weights(meta_model), training["dtype"], place)


def compare(
    base: Path,
    adapter: Path,
    merged: Path,
    tokens: Path,
    update: Update,
    into: contract.Into,
    rows: int,
    runtime: Runtime,
) -> contract.MergeChecks:
    """Compare the merged model with base + adapter (on the base that it was merged into) on `rows` held-out rows."""
    chosen = read_check_rows(tokens, rows)
    place = device(runtime)
    note_figures(device=place)
    note_choice({"runtime.device": place}, f"what this machine has: {place}")
    try:
        comparison = run_by_layers(base, adapter, merged, chosen, update, into, place)
    except Unfit as reason:
        if into != "base16":
            raise
        need = 4 * parameter_count(base) / 2**30
        log.info("the model is checked whole, since %s: this takes about %.1f GiB of memory", reason, need)
        comparison = run_whole(base, adapter, merged, chosen, update.embedding_rows, place)
    training: adapter_files.Training = read_json(adapter / adapter_files.TRAINING)
    return summarize(comparison, len(chosen), into, load_in_4bit=training["load_in_4bit"])


def read_check_rows(tokens: Path, count: int) -> list[CheckRow]:
    """The first held-out rows, training rows where none is held out. Raises StageError if none has a labelled token."""
    table = token_files.read_tokens(tokens / token_files.HELDOUT)
    table = (table if table.num_rows else token_files.read_tokens(tokens / token_files.TRAIN)).slice(0, count)
    rows = []
    for row in table.select(["input_ids", "labels"]).to_pylist():
        ids, labels = row["input_ids"], row["labels"]
        positions = [at - 1 for at, label in enumerate(labels) if label != token_files.NOT_TRAINED and at]
        positions = positions[:POSITIONS_PER_ROW]
        if positions:
            rows.append(CheckRow(ids[: positions[-1] + 1], positions, [ids[at + 1] for at in positions]))
    if not rows:
        raise StageError(
            f"none of the first {count} rows of data/tokens has a labelled token, so no merge can be checked"
        )
    return rows


def run_by_layers(
    base: Path, adapter: Path, merged: Path, rows: Sequence[CheckRow], update: Update, into: contract.Into, place: str
) -> LogitComparison:
    """The comparison of all models, each run layer by layer."""
    import torch

    files = read_headers(weight_files(base))
    plain, beside = Variant(files), read_header(adapter / adapter_files.WEIGHTS)
    check_names(build_meta_model(base), files)
    nf4 = read_training_nf4(base, adapter, place)
    variants = {BASE: plain, MERGED: Variant(read_headers(weight_files(merged)))}
    if into == "base16":
        variants[ADAPTER] = plain.with_adapter(update, beside)
    else:
        variants[BASE_4BIT] = Variant(files, nf4)
    if nf4 is not None:
        variants[ADAPTER_4BIT] = Variant(files, nf4).with_adapter(update, beside)
        variants[MERGED_OTHER] = Variant(files, nf4 if into == "base16" else None, update)
    passes = {}
    for name, variant in variants.items():
        meta_model = build_meta_model(merged if name == MERGED else base, adapter if variant.adapter else None)
        passes[name] = run_layers(meta_model, variant, [(row.ids, row.positions) for row in rows], place)
        log.info("checking: %s has run", name)
    targets = torch.tensor([token for row in rows for token in row.targets], device=place)
    comparison = LogitComparison(ADAPTER if into == "base16" else ADAPTER_4BIT, targets)
    width = plain.tensors[build_meta_model(base).head].shape[1]
    step = max(1, VALUES // max(width, targets.shape[0]))
    for first in range(0, update.embedding_rows, step):
        last = min(first + step, update.embedding_rows)
        comparison.add(first, {name: one.logits(first, last) for name, one in passes.items()})
    return comparison


def run_whole(
    base: Path, adapter: Path, merged: Path, rows: Sequence[CheckRow], embedding_rows: int, place: str
) -> LogitComparison:
    """The comparison of base, base + adapter and merged, each loaded whole, one after the other."""
    import torch
    from peft import PeftModel

    plain = load_base(base, load_in_4bit=False, dtype="float32", place=place, rows=embedding_rows)
    tuned = PeftModel.from_pretrained(plain, adapter).eval()
    found = {ADAPTER: compute_logits(tuned, rows, place)}
    with tuned.disable_adapter():
        found[BASE] = compute_logits(tuned, rows, place)
    del plain, tuned
    model = load_base(merged, load_in_4bit=False, dtype="float32", place=place, rows=embedding_rows)
    found[MERGED] = compute_logits(model, rows, place)
    comparisons = []
    for number, row in enumerate(rows):
        comparisons.append(LogitComparison(ADAPTER, torch.tensor(row.targets)))
        comparisons[-1].add(0, {name: parts[number] for name, parts in found.items()})
    return concatenate(comparisons)


def compute_logits(model: "torch.nn.Module", rows: Sequence[CheckRow], place: str) -> "list[torch.Tensor]":
    """For each row its logits, positions x vocabulary."""
    import torch

    found = []
    for row in rows:
        wanted = torch.tensor(row.positions, device=place)
        with torch.no_grad():
            given = model(input_ids=torch.tensor([row.ids], device=place), logits_to_keep=wanted).logits
        found.append(given[0].float().cpu())
    return found


def summarize(
    comparison: LogitComparison, rows: int, into: contract.Into, *, load_in_4bit: bool
) -> contract.MergeChecks:
    """What checks.json says."""
    plain = BASE if into == "base16" else BASE_4BIT
    base16, nf4 = (MERGED, MERGED_OTHER) if into == "base16" else (MERGED_OTHER, MERGED)
    losses = {name: float(comparison.losses(name).mean()) for name in comparison.top}
    return contract.MergeChecks(
        into=into,
        load_in_4bit=load_in_4bit,
        rows=rows,
        positions=comparison.targets.shape[0],
        max_logit_difference=float(comparison.difference[MERGED].max()),
        mean_kl=max(0.0, float(comparison.divergences(MERGED).mean())),
        top1_agreement=float((comparison.choice[MERGED] == comparison.choice[comparison.reference]).double().mean()),
        max_change_from_base=float(comparison.difference[plain].max()),
        losses=contract.Losses(
            base=losses[BASE],
            adapter_base16=losses.get(ADAPTER),
            adapter_4bit=losses.get(ADAPTER_4BIT),
            merged_base16=losses[base16],
            merged_dequantized_nf4=losses.get(nf4),
        ),
    )
