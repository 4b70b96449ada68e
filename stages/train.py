"""Train a LoRA adapter on the base model: QLoRA through Unsloth and TRL's SFTTrainer, on CUDA or the CPU.

Reads  data/base, data/tokens (train.arrow and heldout.arrow with their labels as they are, the tokenizer).
Writes data/adapter: a PEFT folder with the tokenizer, retune.json (how the base was loaded), steps.jsonl (loss by step),
       ledger.parquet (which row was trained in which steps).

    python -m stages.train --base data/base --tokens data/tokens --adapter data/adapter
"""

import importlib.metadata
import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from stages.contracts import adapter as contract
from stages.contracts import base as base_files
from stages.contracts import tokens as token_files
from stages.entry import Input, Output, run
from stages.errors import StageError
from stages.files import execution_record, read_json, scratch, write_json, write_text
from stages.model import (
    Dtype,
    base_digests,
    base_rows,
    device,
    embedding_plan,
    prepare_process,
    read_config,
    resize_embedding,
    torch_dtype,
)
from stages.params import Params, Runtime
from stages.tables import write_parquet
from stages.watched_trainer import Collator, Watch, name_rows, trainer_class

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase
    from trl import SFTTrainer

log = logging.getLogger("retune")


ROWS_NAME = ".trainable_tokens_delta."
"""In the name of a parameter that holds trained rows of the embedding or the head."""


class LoraParams(Params):
    """The shape of the adapter."""

    r: Annotated[int, Field(ge=1)]
    """Rank of the update of each projection. Effect: more can be learned, more memory; 8 to 64 by the size of the task."""
    alpha: Annotated[int, Field(ge=1)]
    """The update is scaled by alpha / r (alpha / sqrt(r) with `use_rslora`). Effect: as a learning rate of the adapter."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Share of an adapter's inputs set to zero while training, 0 to 1. Effect: against overfitting; 0 is Unsloth's fast path."""
    bias: Literal["none"]
    """Bias vectors to train. Llama's projections have none, so this is the only value that can be merged."""
    target_modules: Annotated[list[str], Field(min_length=1)]
    """Names of the projections that get an adapter."""
    use_rslora: bool
    """Scale by 1 / sqrt(r) instead of 1 / r. Effect: high ranks learn as fast as low ones."""


class TrainParams(Params):
    """What training learns, and from what."""

    seed: Annotated[int, Field(ge=0)]
    """Seed of the adapter's first values, the order of the rows and the dropout."""
    load_in_4bit: bool
    """true: base in NF4 with double quantization (QLoRA), about 0.6 byte a weight. false: base in `dtype`, 2 or 4 bytes a weight."""
    dtype: Dtype
    """Of the arithmetic. auto: bfloat16 where the processor computes in it, else float16 on a GPU and float32 on a CPU."""
    lora: LoraParams
    conversations_per_step: Annotated[int, Field(ge=1)]
    """Conversations in one optimizer step, whatever `runtime.micro_batch` cuts them into. The loss is the mean over all their labelled tokens."""
    steps: Annotated[int, Field(ge=1)] | None
    """Optimizer steps to train. null: `epochs` says how long."""
    epochs: Annotated[float, Field(gt=0)] | None
    """Passes over the training rows. null: `steps` says how long."""
    learning_rate: Annotated[float, Field(gt=0)]
    """Highest learning rate. 1e-4 to 5e-4 is usual for LoRA."""
    warmup_steps: Annotated[int, Field(ge=0)]
    """Steps over which the learning rate rises from 0."""
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"]
    """How the learning rate falls after the warm-up: to 0 by the last step (linear, cosine) or not at all."""
    optimizer: Literal["adamw_8bit", "paged_adamw_8bit", "adamw_torch", "adamw_torch_fused"]
    """adamw_8bit keeps its moments in 8 bit. On a CPU, which has no 8-bit kernels, all are the fused AdamW."""
    weight_decay: Annotated[float, Field(ge=0)]
    """Share of each weight taken off in a step, times the learning rate."""
    max_grad_norm: Annotated[float, Field(gt=0)]
    """A longer gradient is cut to this length."""
    logging_steps: Annotated[int, Field(ge=1)]
    """Optimizer steps from one line of the step log to the next."""
    eval_steps: Annotated[int, Field(ge=1)] | None
    """Optimizer steps from one measure of the held-out loss to the next. null: never while training."""
    eval_rows: Annotated[int, Field(ge=1)]
    """Held-out rows measured then, the first of them."""

    @model_validator(mode="after")
    def check_length(self) -> Self:
        """Either steps or epochs."""
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("one of steps and epochs must be a number, the other null")
        return self


def train(base: Input, tokens: Input, adapter: Output, params: TrainParams, runtime: Runtime) -> None:
    """Train on the rows of train.arrow as they are: the labels are the template stage's.

    Raises:
        StageError: a row without a label, too long or with an id that the model lacks; a target module that the model lacks;
            a step without a gradient or with a loss that is no number.
    """
    rows = token_files.read_tokens(tokens / token_files.TRAIN)
    embedding_rows, trained_rows = embedding_plan(base, tokens)
    check_rows(rows, read_config(base), embedding_rows)
    prepare_process(base, runtime)
    started = time.monotonic()
    model, tokenizer = load_model(base, tokens, params, runtime, embedding_rows, trained_rows)
    loaded = time.monotonic()
    trainer = make_trainer(model, tokenizer, tokens, params, runtime)
    trainer.train()
    trained = time.monotonic()

    name, revision = base_name(base)
    save_adapter(model, adapter, name, revision)
    for file in sorted((tokens / token_files.TOKENIZER).iterdir()):
        shutil.copyfile(file, adapter / file.name)
    write_json(
        adapter / contract.TRAINING,
        contract.Training(
            base=base_digests(base),
            load_in_4bit=params.load_in_4bit,
            dtype=compute_dtype(model),
            embedding_rows=embedding_rows,
            trained_rows=trained_rows,
            steps=trainer.state.global_step,
        ),
    )
    write_text(
        adapter / contract.STEPS,
        "".join(json.dumps(line, sort_keys=True, allow_nan=False) + "\n" for line in trainer.watch.lines),
    )
    write_parquet(adapter / contract.LEDGER, ledger(rows, trainer.watch.rows_of_step))
    figures = {
        "device": device_name(runtime),
        "micro_batch": trainer.args.per_device_train_batch_size,
        "gradient_accumulation": trainer.args.gradient_accumulation_steps,
        "load_seconds": loaded - started,
        "train_seconds": trained - loaded,
        "tokens": trainer.watch.tokens_seen,
        "tokens_per_second": trainer.watch.tokens_seen / (trained - loaded),
        "peak_gpu_mib": peak_gpu_mib(),
        "versions": {
            package: importlib.metadata.version(package)
            for package in ("unsloth", "torch", "transformers", "trl", "peft")
        },
    }
    execution_record("train", figures)
    log.info(
        "%d steps, %.0f tokens/s, final loss %.4f",
        trainer.state.global_step,
        figures["tokens_per_second"],
        trainer.watch.lines[-1]["loss"],
    )


def check_rows(rows: pa.Table, config: Mapping[str, object], embedding_rows: int) -> None:
    """Raise StageError unless every row can be trained on: labels, as many as ids, ids that exist, a length that the model takes."""
    if rows.num_rows == 0:
        raise StageError(
            "data/tokens has no training rows; standardize's and template's rejected.parquet say where the rows went"
        )
    lengths = pc.list_value_length(rows["input_ids"])
    uneven = pc.not_equal(lengths, pc.list_value_length(rows["labels"]))
    refuse(rows, uneven, "have fewer or more labels than tokens; run template again")
    limit = config.get("max_position_embeddings")
    if isinstance(limit, int):
        refuse(
            rows,
            pc.greater(lengths, limit),
            f"are longer than the {limit} positions of the model; lower template.max_length",
        )
    refuse(rows, pc.equal(labelled_tokens(rows), 0), "have no labelled token, so nothing would be learned from them")
    highest = pc.max(pc.list_flatten(rows["input_ids"])).as_py()
    if highest >= embedding_rows:
        raise StageError(
            f"data/tokens holds token id {highest}, but the model knows {embedding_rows}: the tokenizer belongs to another model"
        )


def refuse(rows: pa.Table, bad: pa.ChunkedArray, what: str) -> None:
    """Raise StageError that names the rows where `bad` is true."""
    found = rows.filter(bad)["row_id"].to_pylist()
    if found:
        raise StageError(f"{name_rows(found)} of data/tokens {what}")


def labelled_tokens(rows: pa.Table) -> pa.Array:
    """int64, one a row: how many of its labels are trained on."""
    counts = []
    for batch in rows.to_batches():
        labels = batch.column(batch.schema.get_field_index("labels"))
        trained = pc.cast(pc.not_equal(labels.flatten(), token_files.NOT_TRAINED), pa.int64())
        sums = (
            pa.chunked_array([pc.cumulative_sum(trained)]).combine_chunks()
            if len(trained)
            else pa.array([], pa.int64())
        )
        ends = pc.cumulative_sum(pc.cast(pc.list_value_length(labels), pa.int64()))
        before = pa.concat_arrays([pa.array([0], pa.int64()), sums])
        upto = before.take(ends)
        counts.append(pc.subtract(upto, pa.concat_arrays([pa.array([0], pa.int64()), upto[:-1]])))
    return pa.concat_arrays(counts) if counts else pa.array([], pa.int64())


def micro_batch(conversations: int, wanted: int) -> int:
    """The largest size up to `wanted` that divides a step evenly, so that the step is the same for every choice."""
    return max(size for size in range(1, min(wanted, conversations) + 1) if conversations % size == 0)


def load_model(
    base: Path, tokens: Path, params: TrainParams, runtime: Runtime, embedding_rows: int, trained_rows: list[int]
) -> "tuple[PeftModel, PreTrainedTokenizerBase]":
    """The base through Unsloth with a fresh adapter on it, and the tokenizer of data/tokens."""
    place = device(runtime)
    import unsloth  # noqa: F401 - patches trl, transformers and peft: must be the first of them
    from transformers import AutoTokenizer
    from transformers.utils import logging as transformers_logging
    from unsloth import FastLanguageModel

    transformers_logging.disable_progress_bar()
    folder = tokens / token_files.TOKENIZER
    model, _ = FastLanguageModel.from_pretrained(
        str(base),
        max_seq_length=longest_row(tokens / token_files.TRAIN),
        dtype=None if params.dtype == "auto" else torch_dtype(params.dtype),
        load_in_4bit=params.load_in_4bit,
        tokenizer_name=str(folder),
        trust_remote_code=False,
        local_files_only=True,
    )
    if params.load_in_4bit and not any(type(module).__name__ == "Linear4bit" for module in model.modules()):
        raise StageError(
            f"the base could not be loaded in 4 bit on this {place}: set train.load_in_4bit to false, or use another machine"
        )
    check_targets(model, params.lora.target_modules)
    resize_embedding(model, base_rows(base), embedding_rows)
    peft_model = FastLanguageModel.get_peft_model(
        model,
        r=params.lora.r,
        lora_alpha=params.lora.alpha,
        lora_dropout=params.lora.dropout,
        bias=params.lora.bias,
        target_modules=list(params.lora.target_modules),
        use_rslora=params.lora.use_rslora,
        use_gradient_checkpointing=checkpointing(runtime),
        random_state=params.seed,
        **trainable_rows(model, trained_rows),
    )
    for name, value in peft_model.named_parameters():
        if ROWS_NAME in name:
            # Unsloth's GPU path freezes all but the LoRA matrices, without a word
            value.requires_grad_(True)  # noqa: FBT003 - torch's own way
    return peft_model, AutoTokenizer.from_pretrained(folder, local_files_only=True)


def longest_row(file: Path) -> int:
    """Tokens of the longest row of an Arrow file."""
    longest: int = pc.max(pc.list_value_length(token_files.read_tokens(file)["input_ids"])).as_py()
    return longest


def trainable_rows(model: "torch.nn.Module", rows: list[int]) -> dict[str, object]:
    """PEFT's setting that trains single rows of the embedding, and of the output head where it has weights of its own."""
    if not rows:
        return {}
    layers = ["embed_tokens"] if model.config.tie_word_embeddings else ["embed_tokens", "lm_head"]
    return {"trainable_token_indices": dict.fromkeys(layers, rows)}


def check_targets(model: "torch.nn.Module", targets: Sequence[str]) -> None:
    """Raise StageError if a target module is not in the model: PEFT passes over a name that fits nothing as long as one fits."""
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    missing = sorted(set(targets) - names)
    if missing:
        known = sorted(name for name in names if name.endswith("_proj"))
        raise StageError(f"train.lora.target_modules: the base has no {', '.join(missing)}; it has {', '.join(known)}")


def checkpointing(runtime: Runtime) -> Literal["unsloth"] | bool:
    """`runtime.gradient_checkpointing` as Unsloth takes it."""
    return "unsloth" if runtime.gradient_checkpointing == "unsloth" else runtime.gradient_checkpointing == "on"


def make_trainer(
    model: "PeftModel", tokenizer: "PreTrainedTokenizerBase", tokens: Path, params: TrainParams, runtime: Runtime
) -> "SFTTrainer":
    """The trainer over train.arrow, memory-mapped, that watches every step. See `trainer_class` for what it adds to TRL's."""
    from datasets import disable_caching
    from trl import SFTConfig

    disable_caching()
    rows = numbered_rows(tokens / token_files.TRAIN)
    heldout = numbered_rows(tokens / token_files.HELDOUT) if params.eval_steps and has_rows(tokens) else None
    if params.eval_steps and heldout is None:
        log.warning(
            "no conversation is held out, so no held-out loss is measured; standardize.heldout_fraction says how many are"
        )
    eval_steps = params.eval_steps if heldout is not None else None
    size = micro_batch(params.conversations_per_step, runtime.micro_batch)
    if size != min(runtime.micro_batch, params.conversations_per_step):
        log.info("micro-batches of %d, the next size that divides train.conversations_per_step evenly", size)
    dtype = compute_dtype(model)
    arguments = SFTConfig(
        output_dir=str(scratch() / "train"),
        per_device_train_batch_size=size,
        gradient_accumulation_steps=params.conversations_per_step // size,
        max_steps=params.steps or -1,
        num_train_epochs=params.epochs or 1.0,
        learning_rate=params.learning_rate,
        warmup_steps=params.warmup_steps,
        lr_scheduler_type=params.schedule,
        optim=params.optimizer,
        weight_decay=params.weight_decay,
        max_grad_norm=params.max_grad_norm,
        seed=params.seed,
        data_seed=params.seed,
        bf16=dtype == "bfloat16",
        fp16=dtype == "float16",
        use_cpu=device(runtime) == "cpu",
        gradient_checkpointing=checkpointing(runtime) is not False,
        loss_type="nll",
        # every step is looked at; which go into the step log is decided here, not by the trainer
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_strategy="no" if eval_steps is None else "steps",
        eval_steps=eval_steps,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        max_length=None,
        packing=False,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_num_workers=0,
    )
    values = {name: value.data.float().clone() for name, value in model.named_parameters() if value.requires_grad}
    trainer = trainer_class()(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=heldout,
        data_collator=Collator(pad_id=padding_id(tokenizer)),
        processing_class=tokenizer,
    )
    trainer.watch_with(Watch(rows["row_id"], params.logging_steps, eval_steps, params.eval_rows))
    for name, value in model.named_parameters():
        if name in values:
            # TRL rounds an adapter on a 4-bit base to bfloat16; small updates would then be lost
            value.data = values[name]
    return trainer


def has_rows(tokens: Path) -> bool:
    """Whether any conversation is held out: `datasets` cannot open an Arrow file without rows."""
    return bool(token_files.read_tokens(tokens / token_files.HELDOUT).num_rows)


def numbered_rows(file: Path) -> "Dataset":
    """The rows of an Arrow file, memory-mapped, with their number in the column `row`, so that a batch can say which it holds."""
    from datasets import Dataset

    rows = Dataset.from_file(str(file))
    return rows.add_column("row", list(range(len(rows))))


def padding_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """An id to fill a batch with; masked, so any that exists will do."""
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(int(number) for number in ids if number is not None)


def ledger(rows: pa.Table, rows_of_step: Sequence[Sequence[int]]) -> pa.Table:
    """The training ledger: for every training row its labelled tokens and the steps (from 1) that it was part of."""
    steps: list[list[int]] = [[] for _ in range(rows.num_rows)]
    for step, numbers in enumerate(rows_of_step, start=1):
        for number in numbers:
            steps[number].append(step)
    return pa.table([rows["row_id"], labelled_tokens(rows), steps], schema=contract.LEDGER_SCHEMA)


def base_name(base: Path) -> tuple[str, str | None]:
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


def device_name(runtime: Runtime) -> str:
    """The GPU's name, or `cpu`."""
    import torch

    return str(torch.cuda.get_device_name()) if device(runtime) == "cuda" else "cpu"


def peak_gpu_mib() -> int | None:
    """Most memory that torch held on the GPU, MiB; null without one."""
    import torch

    return int(torch.cuda.max_memory_allocated() // 2**20) if torch.cuda.is_available() else None


if __name__ == "__main__":
    run(train)
