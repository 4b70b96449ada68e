"""The model to train: the base through Unsloth with an adapter on it; and the adapter's folder."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow.compute as pc

from stages.contracts import adapter as contract
from stages.contracts import base as base_files
from stages.contracts import tokens as token_files
from stages.core.errors import StageError
from stages.core.files import read_json, write_json
from stages.core.params import Runtime
from stages.models.base_model import base_rows, device, resize_embedding, torch_dtype
from stages.training.fused_coverage import why_not_sharded
from stages.training.params import LoraParams

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

    from stages.training.distributed.process_group import ProcessGroup
    from stages.training.memory.plan import FittedRuntime

log = logging.getLogger("retune")

ROWS_NAME = ".trainable_tokens_delta."
"""In the name of a parameter that holds trained rows of the embedding or the head."""


def load_model(
    base: Path,
    tokens: Path,
    lora: LoraParams,
    runtime: "FittedRuntime",
    *,
    load_in_4bit: bool,
    dtype: str,
    seed: int,
    embedding_rows: int,
    trained_rows: list[int],
    group: "ProcessGroup",
) -> "tuple[PeftModel, PreTrainedTokenizerBase]":
    """The base through Unsloth with a fresh adapter on it, and the tokenizer of data/tokens.

    Args:
        base: a transformers folder.
        tokens: data/tokens.
        lora: the adapter's shape.
        runtime: where, and whether activations are kept.
        load_in_4bit: as `train.load_in_4bit`.
        dtype: as `train.dtype`.
        seed: of the adapter's first values.
        embedding_rows: rows that the embedding shall have.
        trained_rows: rows of the embedding that are trained.
        group: the processes of the training, joined or not. With `runtime.sharding: fsdp` and more than one, the model can compute the loss of
            flat batches alone.
    """
    place, sharded = device(runtime), runtime.sharding == "fsdp" and group.size > 1
    import unsloth  # noqa: F401 - patches trl, transformers and peft: must be the first of them
    from transformers import AutoTokenizer
    from transformers.utils import logging as transformers_logging
    from unsloth import FastLanguageModel

    transformers_logging.disable_progress_bar()
    folder = tokens / token_files.TOKENIZER
    model, _ = FastLanguageModel.from_pretrained(
        str(base),
        max_seq_length=read_longest_row(tokens / token_files.TRAIN),
        dtype=None if dtype == "auto" else torch_dtype(dtype),
        load_in_4bit=load_in_4bit,
        tokenizer_name=str(folder),
        trust_remote_code=False,
        local_files_only=True,
        # into the host's memory, from which each process takes its part: the whole is too large for a GPU
        **({"device_map": {"": "cpu"}, "offload_embedding": False} if sharded else {}),
    )
    if load_in_4bit and not any(type(module).__name__ == "Linear4bit" for module in model.modules()):
        raise StageError(
            f"the base could not be loaded in 4 bit on this {place}: set train.load_in_4bit to false, or use another machine"
        )
    if dtype not in ("auto", compute_dtype(model)):
        # such as float16 on a CPU, where Unsloth quietly takes another one
        raise StageError(
            f"train.dtype is {dtype}, but on this {place} the model computes in {compute_dtype(model)}: set train.dtype to that, or to auto"
        )
    check_targets(model, "target_modules", lora.target_modules)
    check_targets(model, "modules_to_save", lora.modules_to_save)
    resize_embedding(model, base_rows(base), embedding_rows)
    peft_model = FastLanguageModel.get_peft_model(
        model,
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        bias=lora.bias,
        target_modules=list(lora.target_modules),
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        modules_to_save=list(lora.modules_to_save) or None,
        use_gradient_checkpointing=checkpointing(runtime),
        random_state=seed,
        **trainable_rows(model, trained_rows, lora.modules_to_save),
    )
    for name, value in peft_model.named_parameters():
        if ROWS_NAME in name:
            # Unsloth's GPU path freezes all but the LoRA matrices, without a word
            value.requires_grad_(True)  # noqa: FBT003 - torch's own way
    if place == "cuda" or sharded:
        fuse(peft_model, runtime, group if sharded else None)
    return peft_model, AutoTokenizer.from_pretrained(folder, local_files_only=True)


def fuse(model: "PeftModel", runtime: "FittedRuntime", group: "ProcessGroup | None") -> None:
    """Put the faster forward in place for flat batches; what it does not know runs through Unsloth's own, and the log says so.

    With `group` the base is spread over its processes. Raises StageError where the fused forward does not know the model then.
    """
    import torch

    from stages.training.fused.model import attach
    from stages.training.fused.sharding import Shards

    shards = None if group is None else Shards(group, torch.device(device(runtime)))
    reason = attach(model, kept_layers=runtime.kept_layers, loss_rows=runtime.loss_rows, shards=shards)
    if shards is not None:
        if reason is not None:
            raise StageError(why_not_sharded(load_in_4bit=False, layout="packed", not_fused=reason))
        # it says where the weights were loaded to: the trainer would take the model for one that is on several devices
        vars(model.get_base_model()).pop("hf_device_map", None)
        log.info("the base is spread over %d processes", shards.processes.size)
        return
    if reason is not None:
        log.info("the fused forward does not know this model (%s): Unsloth's own is used", reason)


def read_longest_row(file: Path) -> int:
    """Tokens of the longest row of an Arrow file."""
    longest: int = pc.max(pc.list_value_length(token_files.read_tokens(file)["input_ids"])).as_py()
    return longest


def trainable_rows(model: "torch.nn.Module", rows: list[int], saved: Sequence[str]) -> dict[str, object]:
    """PEFT's setting that trains single rows of the embedding, and of the output head where it has weights of its own.

    Those in `saved` are trained whole. Raises StageError if one of them is and the two are one.
    """
    ends = ["embed_tokens", "lm_head"]
    if model.config.tie_word_embeddings:
        if set(ends) & set(saved):
            raise StageError(
                "train.lora.modules_to_save: in this base embed_tokens and lm_head are the same weights, which cannot be trained whole"
            )
        ends = ends[:1]
    left = [name for name in ends if name not in saved]
    return {"trainable_token_indices": dict.fromkeys(left, rows)} if rows and left else {}


def check_targets(model: "torch.nn.Module", key: str, targets: Sequence[str]) -> None:
    """Raise StageError if a module is not in the model: PEFT passes over a name that fits nothing as long as one fits."""
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    missing = sorted(set(targets) - names)
    if missing:
        known = sorted(name for name in names if name.endswith(("_proj", "_head", "_tokens")))
        raise StageError(f"train.lora.{key}: the base has no {', '.join(missing)}; it has {', '.join(known)}")


def checkpointing(runtime: Runtime) -> Literal["unsloth"] | bool:
    """`runtime.gradient_checkpointing` as Unsloth takes it."""
    return "unsloth" if runtime.gradient_checkpointing == "unsloth" else runtime.gradient_checkpointing == "on"


def padding_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """An id to fill a batch with; without a label and not seen by the rest, so any that exists will do."""
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(int(number) for number in ids if number is not None)


def read_base_name(base: Path) -> tuple[str, str | None]:
    """(name, revision) by which others find the base: the hub's, or the pipeline's own folder for a local base; no machine's path."""
    source = read_json(base / base_files.SOURCE) if (base / base_files.SOURCE).exists() else {}
    if source.get("revision"):
        return str(source["source"]), str(source["revision"])
    return "data/base", None


def save_adapter(model: "PeftModel", adapter: Path, name: str, revision: str | None) -> None:
    """Write the PEFT folder so that the same adapter gives the same bytes: no path of this machine, no set in its own order."""
    model.save_pretrained(str(adapter), safe_serialization=True, save_embedding_layers=False)
    (adapter / "README.md").unlink(missing_ok=True)
    (adapter / contract.WEIGHTS).chmod(0o644)
    config = read_json(adapter / contract.CONFIG)
    config |= {
        "base_model_name_or_path": name,
        "revision": revision,
        "target_modules": sorted(config["target_modules"]),
    }
    write_json(adapter / contract.CONFIG, config)


def compute_dtype(model: "torch.nn.Module") -> str:
    """The name of the dtype that the model computes in."""
    return str(
        model.get_input_embeddings().weight.dtype if model.config.dtype is None else model.config.dtype
    ).removeprefix("torch.")
