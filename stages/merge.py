"""Fold the adapter into the 16-bit base, tensor by tensor and shard by shard, and check that the result answers like base + adapter.

Reads  data/base, data/adapter, data/tokens (the tokenizer, held-out rows for the check).
Writes data/merged: a transformers folder in the base's dtype with the tokenizer, merged.json (what was folded into what),
       checks.json (its logits against base + adapter).

    python -m stages.merge --base data/base --adapter data/adapter --tokens data/tokens --merged data/merged
"""

import logging
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
from pydantic import Field

from stages.contracts import adapter as adapter_files
from stages.contracts import base as base_files
from stages.contracts import merged as contract
from stages.contracts import tokens as token_files
from stages.entry import Input, Output, run
from stages.errors import StageError
from stages.files import read_json, sha256_file, write_json
from stages.model import (
    base_digests,
    base_rows,
    check_not_merged,
    device,
    load_base,
    prepare_process,
    read_config,
    tensor_shapes,
    weight_files,
)
from stages.params import Params, Runtime

if TYPE_CHECKING:
    import torch

log = logging.getLogger("retune")

PREFIX = "base_model.model."
"""What PEFT puts before a module's name in an adapter's file."""

ROWS_SUFFIX = ".token_adapter.trainable_tokens_delta"

POSITIONS_PER_ROW = 64
"""Labelled positions of a row that are compared, the last of them: bounds the memory that logits of a large vocabulary take."""

PLAIN_LORA = {
    "peft_type": "LORA",
    "bias": "none",
    "use_dora": False,
    "fan_in_fan_out": False,
    "lora_bias": False,
    "modules_to_save": None,
    "layer_replication": None,
    "target_parameters": None,
    "rank_pattern": {},
    "alpha_pattern": {},
}
"""What an adapter's config must say (or leave out) for W + scaling * B @ A to be all that it does."""


class MergeParams(Params):
    """How the merged model is checked."""

    check_rows: Annotated[int, Field(ge=1)]
    """Held-out rows whose logits are compared (training rows where none is held out). Effect: time and memory of the check."""
    max_logit_difference: Annotated[float, Field(gt=0)]
    """Largest difference of one logit between merged model and base + adapter, both in fp32, that passes. Rounding the merged
    weights to the base's 16 bits gives 0.03 to 0.3 on the demo, where the fine-tuning itself moves logits by 26; a wrong merge, as much as that."""


@dataclass(frozen=True)
class Update:
    """What an adapter does to the base's tensors, by the tensor's name."""

    scaling: float
    low_rank: "dict[str, tuple[torch.Tensor, torch.Tensor]]"
    """{weight: (A of shape r x in, B of shape out x r)}, fp32."""
    row_numbers: list[int]
    rows: "dict[str, torch.Tensor]"
    """{embedding or head: trained rows, fp32, in the order of `row_numbers`}."""
    embedding_rows: int


def merge(base: Input, adapter: Input, tokens: Input, merged: Output, params: MergeParams, runtime: Runtime) -> None:
    """Write the merged model and its checks.

    Raises:
        StageError: an adapter of another base, of a kind that cannot be folded, or with numbers that are not finite;
            a base that holds the adapter already; a merged model whose logits are not those of base + adapter.
    """
    digest = check_pair(base, adapter)
    prepare_process(base, runtime)
    update = read_update(adapter, base_rows(base))
    check_shapes(update, {name: shape for file in weight_files(base) for name, shape in tensor_shapes(file).items()})
    merged.mkdir(parents=True)
    for file in weight_files(base):
        merge_file(file, merged / file.name, update)
    if (base / base_files.INDEX).exists():
        write_json(merged / base_files.INDEX, resized_index(read_json(base / base_files.INDEX), merged))
    for file in sorted((tokens / token_files.TOKENIZER).iterdir()):
        shutil.copyfile(file, merged / file.name)
    write_settings(base, tokens, merged, update.embedding_rows)
    checks = compare(base, adapter, merged, tokens, params, runtime)
    judge(checks, params)
    write_json(merged / contract.CHECKS, checks)
    write_json(
        merged / contract.MARKER, contract.Marker(base=base_digests(base), adapter=digest, files=base_digests(merged))
    )
    log.info(
        "%d tensors changed; logits differ by at most %.4f from base + adapter, mean KL %.2g",
        len(update.low_rank) + len(update.rows),
        checks["max_logit_difference"],
        checks["mean_kl"],
    )


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


def read_update(adapter: Path, vocabulary: int) -> Update:
    """The adapter's update of a base with `vocabulary` rows, in fp32. Raises StageError for kinds of adapters that are not a plain LoRA, and for NaN or infinity."""
    import torch
    from safetensors.torch import load_file

    config: dict[str, Any] = read_json(adapter / adapter_files.CONFIG)
    for key, plain in PLAIN_LORA.items():
        found = config.get(key, plain)
        if found != plain and (found or plain):
            raise StageError(
                f"{adapter / adapter_files.CONFIG}: {key} is {found!r}; such an adapter cannot be merged here, only a plain LoRA"
            )
    tensor_shapes(adapter / adapter_files.WEIGHTS)
    tensors = {
        name.removeprefix(PREFIX): tensor.float() for name, tensor in load_file(adapter / adapter_files.WEIGHTS).items()
    }
    broken = sorted(name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all()))
    if broken:
        raise StageError(
            f"{adapter / adapter_files.WEIGHTS}: {broken[0]} holds NaN or infinity ({len(broken)} tensors do); train again"
        )
    rows = {
        f"{name.removesuffix(ROWS_SUFFIX)}.weight": tensors.pop(name)
        for name in list(tensors)
        if name.endswith(ROWS_SUFFIX)
    }
    modules = sorted({name.rpartition(".lora_")[0] for name in tensors})
    try:
        low_rank = {
            f"{name}.weight": (tensors.pop(f"{name}.lora_A.weight"), tensors.pop(f"{name}.lora_B.weight"))
            for name in modules
        }
    except KeyError as error:
        raise StageError(f"{adapter / adapter_files.WEIGHTS}: {error.args[0]} is missing; train again") from error
    if tensors:
        raise StageError(
            f"{adapter / adapter_files.WEIGHTS}: {min(tensors)} is no part of a LoRA that can be merged here"
        )
    training: adapter_files.Training = read_json(adapter / adapter_files.TRAINING)
    missing = set(range(vocabulary, training["embedding_rows"])) - set(training["trained_rows"])
    if missing:
        raise StageError(
            f"{adapter}: {len(missing)} rows of the resized embedding are in neither base nor adapter; train again"
        )
    return Update(
        scaling=config["lora_alpha"] / (math.sqrt(config["r"]) if config["use_rslora"] else config["r"]),
        low_rank=low_rank,
        row_numbers=training["trained_rows"],
        rows=rows,
        embedding_rows=training["embedding_rows"],
    )


def check_shapes(update: Update, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise StageError unless every part of the adapter fits a tensor of the base."""
    for name, (down, up) in update.low_rank.items():
        found = shapes.get(name)
        if found != (up.shape[0], down.shape[1]) or down.shape[0] != up.shape[1]:
            want, has = f"{up.shape[0]} x {down.shape[1]}", "no such tensor" if found is None else f"{found} there"
            raise StageError(f"the adapter changes {name} ({want}), and the base has {has}: another model's adapter")
    for name, rows in update.rows.items():
        found = shapes.get(name)
        if found is None or found[1] != rows.shape[1] or rows.shape[0] != len(update.row_numbers):
            raise StageError(
                f"the adapter's trained rows of {name} do not fit the base's {found}: another model's adapter"
            )


def merge_file(source: Path, target: Path, update: Update) -> None:
    """Write one safetensors file with the adapter folded in; in memory is this file's content and one tensor in fp32."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(source, framework="pt") as file:
        tensors = {name: merge_tensor(name, file.get_tensor(name), update) for name in file.keys()}  # noqa: SIM118 - no mapping
    save_file(tensors, target, metadata={"format": "pt"})
    target.chmod(0o644)


def merge_tensor(name: str, weight: "torch.Tensor", update: Update) -> "torch.Tensor":
    """The weight with the adapter's part added in fp32 and rounded once to the weight's dtype; others come back as they are."""
    import torch

    if name in update.low_rank:
        down, up = update.low_rank[name]
        folded = (weight.float() + update.scaling * (up @ down)).to(weight.dtype)
        if not bool(torch.isfinite(folded).all()):
            raise StageError(
                f"{name} overflows {weight.dtype} with the adapter folded in: the training diverged, or the base is damaged"
            )
        return folded
    if name in update.rows:
        resized = torch.zeros(update.embedding_rows, weight.shape[1], dtype=weight.dtype)
        resized[: weight.shape[0]] = weight
        resized[update.row_numbers] = update.rows[name].to(weight.dtype)
        return resized
    return weight


def resized_index(index: dict[str, Any], merged: Path) -> dict[str, Any]:
    """The base's index of shards with the size that the merged shards have."""
    size = sum(file.stat().st_size - header_bytes(file) for file in weight_files(merged))
    return {**index, "metadata": {**index.get("metadata", {}), "total_size": size}}


def header_bytes(file: Path) -> int:
    """Bytes before the first tensor of a safetensors file."""
    with file.open("rb") as handle:
        return 8 + int.from_bytes(handle.read(8), "little")


def write_settings(base: Path, tokens: Path, merged: Path, embedding_rows: int) -> None:
    """config.json and generation_config.json: the base's, with the size of the vocabulary and the tokens that begin, end and pad."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokens / token_files.TOKENIZER, local_files_only=True)
    generation = base / base_files.GENERATION_CONFIG
    settings: dict[str, Any] = read_json(generation) if generation.exists() else {}
    config = dict(read_config(base))
    ends = end_ids(tokenizer.eos_token_id, settings.get("eos_token_id"), config.get("eos_token_id"))
    special: dict[str, int | list[int]] = {}
    if ends:
        special["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    if tokenizer.bos_token_id is not None:
        special["bos_token_id"] = tokenizer.bos_token_id
    if tokenizer.pad_token_id is not None:
        special["pad_token_id"] = tokenizer.pad_token_id
    write_json(merged / base_files.GENERATION_CONFIG, {**settings, **special})
    write_json(merged / base_files.CONFIG, {**config, **special, "vocab_size": embedding_rows})


def end_ids(*found: object) -> list[int]:
    """Every end-of-text id that tokenizer and base name, each once, the tokenizer's end of turn first."""
    ids: list[int] = []
    for value in found:
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and number not in ids:
                ids.append(number)
    return ids


def compare(
    base: Path, adapter: Path, merged: Path, tokens: Path, params: MergeParams, runtime: Runtime
) -> contract.Checks:
    """Logits of the merged model and of base + adapter through PEFT at labelled positions, both in fp32; one model in memory at a time."""
    import torch
    from peft import PeftModel

    rows = token_files.read_tokens(tokens / token_files.HELDOUT)
    rows = (rows if rows.num_rows else token_files.read_tokens(tokens / token_files.TRAIN)).slice(0, params.check_rows)
    place = device(runtime)
    training: adapter_files.Training = read_json(adapter / adapter_files.TRAINING)
    plain = load_base(base, load_in_4bit=False, dtype="float32", place=place, rows=training["embedding_rows"])
    tuned = PeftModel.from_pretrained(plain, adapter)
    tuned.eval()
    wanted = list(logits(tuned, rows, place))
    with tuned.disable_adapter():
        change = max(
            float((one - other).abs().max()) for one, other in zip(wanted, logits(tuned, rows, place), strict=True)
        )
    del plain, tuned
    model = load_base(merged, load_in_4bit=False, dtype="float32", place=place, rows=training["embedding_rows"])
    difference, divergence, agreed, positions = 0.0, 0.0, 0, 0
    for one, other in zip(wanted, logits(model, rows, place), strict=True):
        difference = max(difference, float((one - other).abs().max()))
        left, right = torch.log_softmax(one.double(), -1), torch.log_softmax(other.double(), -1)
        divergence += float((left.exp() * (left - right)).sum())
        agreed += int((one.argmax(-1) == other.argmax(-1)).sum())
        positions += one.shape[0]
    return contract.Checks(
        rows=rows.num_rows,
        positions=positions,
        max_logit_difference=difference,
        mean_kl=max(0.0, divergence / positions),
        top1_agreement=agreed / positions,
        max_change_from_base=change,
    )


def logits(model: "Callable[..., Any]", rows: pa.Table, place: str) -> "Iterator[torch.Tensor]":
    """For each row its logits, positions x vocabulary, at the last POSITIONS_PER_ROW places that predict a labelled token."""
    import torch

    for row in rows.select(["input_ids", "labels"]).to_pylist():
        ids = torch.tensor([row["input_ids"]], device=place)
        places = [
            position - 1
            for position, label in enumerate(row["labels"])
            if label != token_files.NOT_TRAINED and position
        ][-POSITIONS_PER_ROW:]
        with torch.no_grad():
            found = model(input_ids=ids, logits_to_keep=torch.tensor(places, device=place)).logits
        yield found[0].float().cpu()


def judge(checks: contract.Checks, params: MergeParams) -> None:
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


if __name__ == "__main__":
    run(merge)
