"""Fold the adapter into the base, tensor by tensor and shard by shard, and check that the result answers like base + adapter.

Reads  data/base, data/adapter, data/tokens (the tokenizer, held-out rows for the check).
Writes data/merged: a transformers folder in the base's dtype, names and shards, with the tokenizer; merged.json (what was folded into
       what), checks.json (its logits against base + adapter, held-out losses).

    python -m stages.merge --base data/base --adapter data/adapter --tokens data/tokens --merged data/merged
"""

import logging
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from stages.contracts import adapter as adapter_files
from stages.contracts import base as base_files
from stages.contracts import merged as contract
from stages.contracts import tokens as token_files
from stages.core.errors import StageError
from stages.core.execution import note_ran, note_unknown
from stages.core.files import read_json, sha256_file, write_json
from stages.core.params import Params, Runtime
from stages.core.runner import Input, Output, run
from stages.merging.agreement import compare, read_training_nf4
from stages.merging.config_files import resize_index, write_settings
from stages.models.base_model import (
    base_digests,
    base_rows,
    check_not_merged,
    device,
    prepare_process,
    read_config,
    weight_files,
)
from stages.models.safetensors_header import StoredTensor, read_header
from stages.weights.folding import Update, check_shapes, fold, merged_shape, read_update, tie_head
from stages.weights.meta_model import Unfit
from stages.weights.nf4 import Nf4
from stages.weights.shards import read_blocks, read_headers, read_rows, torch_dtype, write_shard

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

log = logging.getLogger("retune")

BLOCK_VALUES = 1 << 21
"""Values of a tensor that are folded at once."""


class MergeParams(Params):
    """What the adapter is folded into, and how the merged model is checked."""

    into: contract.Into
    """What the adapter is folded into. base16: the 16-bit base, as it was published. dequantized_nf4: the base as training saw it,
    quantized to NF4 and back, so that the merged model is the function that was trained; only for `train.load_in_4bit`. Effect: checks.json
    has the held-out loss of both. Merge on the kind of device that trained: a GPU and a CPU quantize about 1 weight in 1,000 differently
    (2e-4 of a matrix's size)."""
    check_rows: Annotated[int, Field(ge=1)]
    """Held-out rows whose logits are compared (training rows where none is held out). Effect: time and memory of the check."""
    max_logit_difference: Annotated[float, Field(gt=0)]
    """Largest difference of a logit from that of base + adapter that passes. Both in fp32. Rounding the merged weights to the base's 16
    bits gives 0.03 to 0.3 on the demo, where the fine-tuning itself moves logits by 26; a wrong merge, as much as that."""


def merge(base: Input, adapter: Input, tokens: Input, merged: Output, params: MergeParams, runtime: Runtime) -> None:
    """Write the merged model and its checks.

    Raises:
        StageError: an adapter of another base, of a kind that cannot be folded, or with numbers that are not finite;
            a base that holds the adapter already; a merged model whose logits are not those of base + adapter; no room on the disk.
    """
    digest = check_pair(base, adapter)
    prepare_process(base, runtime)
    files = weight_files(base)
    tensors = read_headers(files)
    update = read_update(adapter, base_rows(base))
    tie_head(update, read_config(base), tensors)
    check_shapes(update, tensors)
    nf4 = read_nf4_base(base, adapter, runtime) if params.into == "dequantized_nf4" else None
    merged.mkdir(parents=True)
    check_room(files, merged)
    digests = {file.name: merge_shard(file, merged / file.name, update, nf4) for file in files}
    if (base / base_files.INDEX).exists():
        write_json(merged / base_files.INDEX, resize_index(read_json(base / base_files.INDEX), merged))
    for file in sorted((tokens / token_files.TOKENIZER).iterdir()):
        shutil.copyfile(file, merged / file.name)
    write_settings(base, tokens, merged, update.embedding_rows)
    log.info("%d tensors changed; checking", len(update.names | (nf4.names if nf4 else set())))
    checks = compare(base, adapter, merged, tokens, update, params.into, params.check_rows, runtime)
    judge(checks, params)
    note_ran({"merge.into": "base16" if nf4 is None else "dequantized_nf4"})
    note_ran({"merge.check_rows": checks["rows"]}, "there are fewer rows")
    found = f"a limit, not a way to work: the largest difference was {checks['max_logit_difference']:.4g}"
    note_unknown(found, "merge.max_logit_difference")
    write_json(merged / contract.CHECKS, checks)
    digests[base_files.CONFIG] = sha256_file(merged / base_files.CONFIG)
    training: adapter_files.Training = read_json(adapter / adapter_files.TRAINING)
    marker = contract.Marker(base=training["base"], adapter=digest, into=params.into, files=digests)
    write_json(merged / base_files.MERGED_MARKER, marker)
    say(checks)


def check_pair(base: Path, adapter: Path) -> str:
    """The sha256 of the adapter's weights. Raises StageError unless base and adapter belong together and are not merged yet."""
    for name in (adapter_files.CONFIG, adapter_files.WEIGHTS, adapter_files.TRAINING):
        if not (adapter / name).exists():
            raise StageError(f"{adapter / name} is missing: the adapter is not whole; `dvc repro train` makes it")
    digest = sha256_file(adapter / adapter_files.WEIGHTS)
    check_not_merged(base, digest)
    training: adapter_files.Training = read_json(adapter / adapter_files.TRAINING)
    here = base_digests(base)
    if training["base"] != here:
        differing = sorted(
            name for name in training["base"].keys() | here.keys() if training["base"].get(name) != here.get(name)
        )
        raise StageError(
            f"{adapter} was trained on another base than {base} ({', '.join(differing)} differ): "
            "fetch the base that it was trained on, or train again"
        )
    return digest


def read_nf4_base(base: Path, adapter: Path, runtime: Runtime) -> Nf4:
    """The base as training saw it. Raises StageError if it was not in NF4, or cannot be told from the files."""
    try:
        nf4 = read_training_nf4(base, adapter, device(runtime))
    except Unfit as reason:
        raise StageError(
            f"merge.into: dequantized_nf4 cannot be done for this base, since {reason}; use base16"
        ) from reason
    if nf4 is None:
        raise StageError(
            "merge.into is dequantized_nf4, but the adapter was trained with load_in_4bit: false; use base16"
        )
    return nf4


def check_room(files: list[Path], merged: Path) -> None:
    """Raise StageError if the disk has not the room for the merged weights."""
    need, free = sum(file.stat().st_size for file in files), shutil.disk_usage(merged).free
    if need > free:
        raise StageError(
            f"the merged model takes {need / 2**30:.1f} GiB and the disk has {free / 2**30:.1f} GiB free: make room "
            "(`dvc gc --workspace` removes what no longer belongs to this version)"
        )


def merge_shard(source: Path, target: Path, update: Update, nf4: Nf4 | None) -> str:
    """Write one file with the adapter folded in; its sha256. A block of one tensor is in memory, in NF4 one tensor."""
    tensors = read_header(source)
    shapes = {}
    for name, tensor in tensors.items():
        shape = merged_shape(name, tensor, update)
        size = tensor.stop - tensor.start
        shapes[name] = (tensor.dtype, shape, size // tensor.shape[0] * shape[0] if tensor.shape else size)
    blocks = (block for name, tensor in tensors.items() for block in merge_blocks(name, tensor, update, nf4))
    digest = write_shard(target, shapes, blocks)
    target.chmod(0o644)
    return digest


def merge_blocks(name: str, tensor: StoredTensor, update: Update, nf4: Nf4 | None) -> "Iterator[bytes | torch.Tensor]":
    """A tensor with the adapter's part added in fp32 and rounded once to the tensor's dtype; others come as the bytes that they are."""
    if name not in update.names and (nf4 is None or name not in nf4.names):
        yield from read_blocks(tensor)
        return
    import torch

    dtype = torch_dtype(tensor)
    source = update.whole.get(name, tensor)
    restored = nf4.round_trip(tensor) if nf4 is not None and name in nf4.names and source is tensor else None
    rows, width = merged_shape(name, tensor, update)[0], math.prod(source.shape[1:])
    step = max(1, BLOCK_VALUES // width)
    for first in range(0, rows, step):
        last = min(first + step, rows)
        there = read_rows(source, min(first, source.shape[0]), last) if restored is None else restored[first:last]
        block = torch.cat([there.float(), torch.zeros(last - first - there.shape[0], *source.shape[1:])])
        block = (fold(name, block, first, update) if source is tensor else block).to(dtype)
        # the sum is the cheap look: what is not finite makes it so
        if not bool(block.sum(dtype=torch.float32).isfinite()) and not bool(block.isfinite().all()):
            raise StageError(
                f"{name} overflows {dtype} with the adapter folded in: the training diverged, or the base is damaged"
            )
        yield block


def judge(checks: contract.MergeChecks, params: MergeParams) -> None:
    """Raise StageError unless the merged model is base + adapter, and not the base."""
    if not checks["max_logit_difference"] <= params.max_logit_difference:
        raise StageError(
            f"the merged model's logits differ by {checks['max_logit_difference']:.4f} from base + adapter "
            f"(merge.max_logit_difference is {params.max_logit_difference}): it would not answer as it was trained"
        )
    if not checks["max_change_from_base"] > 0:
        raise StageError(
            "base + adapter answers exactly as the base: the adapter holds no training; look at data/adapter/steps.jsonl"
        )


def say(checks: contract.MergeChecks) -> None:
    """The figures in the log."""
    log.info(
        "logits differ by at most %.4f from base + adapter, mean KL %.2g",
        checks["max_logit_difference"],
        checks["mean_kl"],
    )
    losses = ((name.replace("_", " "), loss) for name, loss in checks["losses"].items() if isinstance(loss, float))
    log.info("held-out loss: %s", "  ".join(f"{name} {loss:.4f}" for name, loss in losses))


if __name__ == "__main__":
    run(merge, runtime_keys=("device",))
