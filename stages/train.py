"""Train a LoRA adapter on the base model: QLoRA through Unsloth and TRL's SFTTrainer, on CUDA or the CPU.

Reads  data/base, data/tokens (train.arrow and heldout.arrow with their labels as they are, the tokenizer),
       data/custom_adapter (an adapter to go on from, where train.init_adapter says so).
Writes data/adapter: a PEFT folder with the tokenizer, retune.json (how the base was loaded), steps.jsonl (loss by step),
       ledger.parquet (which row was trained in which steps).
       While it runs, checkpoints in .retune/checkpoints: a training that was ended by anything goes on from the last one.

    python -m stages.train --base data/base --tokens data/tokens --custom_adapter data/custom_adapter --adapter data/adapter

Over several hosts: docs/several-hosts.md.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.contracts import adapter as contract
from stages.contracts import tokens as token_files
from stages.core.errors import StageError
from stages.core.files import scratch, sha256_files
from stages.core.params import Params, Runtime
from stages.core.parent_death import die_with_parent
from stages.core.runner import Finish, Input, Output, project_code, run
from stages.models.base_model import Dtype, base_digests, device, embedding_plan, prepare_process, read_config
from stages.show.progress import progress
from stages.training.checkpoints import Checkpoints, brought, one_trainer, stop_noted
from stages.training.distributed.process_group import Group
from stages.training.distributed.processes import own_gpu, processes, take_part_launched
from stages.training.distributed.torchrun import ASKED, check_same, launch_here, launched
from stages.training.initial_adapter import check_first, put_first
from stages.training.lora import LoraParams, compute_dtype, load_model
from stages.training.memory.fit import Task, asked_for, fit_training
from stages.training.memory.out_of_memory import forget, go_on_smaller, is_out_of_memory
from stages.training.memory.plan import FittedRuntime, fit_of, next_smaller
from stages.training.outputs import note_execution, versions, write_adapter
from stages.training.step_plan import Layout, Plan, make_plan
from stages.training.token_rows import TokenRows, check_rows
from stages.training.trainer_setup import make_trainer, make_work

if TYPE_CHECKING:
    from peft import PeftModel
    from trl import SFTTrainer

    from stages.training.planned_trainer import Work

log = logging.getLogger("retune")


class TrainParams(Params):
    """What training learns, and from what."""

    seed: Annotated[int, Field(ge=0)]
    """Seed of the adapter's first values, the order of the rows and the dropout."""
    load_in_4bit: bool
    """true: base in NF4 with double quantization (QLoRA), about 0.6 byte a weight. false: base in `dtype`, 2 or 4 bytes a weight."""
    dtype: Dtype
    """Of the arithmetic. auto: bfloat16 where the processor computes in it, else float16 on a GPU and float32 on a CPU."""
    lora: LoraParams
    init_adapter: Literal["none", "custom"]
    """none: a fresh adapter. custom: training goes on from the adapter in data/custom_adapter (a PEFT folder, of the shape that `lora`
    says); its optimizer starts anew."""
    layout: Layout
    """How conversations lie in an optimizer step. padded: each a row of its own, filled up to the longest of its micro-batch.
    flattened: one after the other in one long row, none sees another: the same mathematics without the filling, several times
    faster. Both take `conversations_per_step`, so the tokens of a step vary with its conversations. packed: whole conversations
    fill packs of `pack_length` tokens, and `tokens_per_step` says how many tokens a step has: fastest, but other mathematics than
    the recipe's 8 conversations (8 packs of 2,048 tokens are about 30 of FineTome's), so fewer steps an epoch."""
    conversations_per_step: Annotated[int, Field(ge=1)] | None
    """Conversations in one optimizer step (padded, flattened), whatever `runtime.micro_batch` cuts them into; an epoch's last step has
    what remains. The loss is the mean over all labelled tokens of the step. null in packed."""
    tokens_per_step: Annotated[int, Field(ge=1)] | None
    """Tokens in one optimizer step (packed), a multiple of `pack_length`; the loss is the mean over all the labelled ones. Packs are
    98 % full or more on chat data. null in padded and flattened."""
    pack_length: Annotated[int, Field(ge=2)] | None
    """Tokens of a pack (packed); at least the longest row, so `template.max_length` is a good value. null in padded and flattened."""
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
    """adamw_8bit keeps its moments in 8 bit, the paged one moves them to the host's memory when the GPU's is full.
    On a CPU, which has no 8-bit kernels, all are the fused AdamW."""
    weight_decay: Annotated[float, Field(ge=0)]
    """Share of each weight taken off in a step, times the learning rate."""
    max_grad_norm: Annotated[float, Field(gt=0)]
    """A longer gradient is cut to this length."""
    neftune_noise_alpha: Annotated[float, Field(gt=0)] | None
    """Size of the noise on the embeddings while training (NEFTune; 5 is usual). Effect: against overfitting on small data. null: none."""
    logging_steps: Annotated[int, Field(ge=1)]
    """Optimizer steps from one line of the step log to the next."""
    eval_steps: Annotated[int, Field(ge=1)] | None
    """Optimizer steps from one measure of the held-out loss to the next. null: never while training."""
    eval_rows: Annotated[int, Field(ge=1)]
    """Held-out rows measured then, the first of them."""
    early_stopping: Annotated[int, Field(ge=1)] | None
    """Measures of the held-out loss without a new lowest one after which training stops. null: all steps are taken."""
    keep: Literal["last", "best"]
    """Which adapter is kept: of the last step, or of the step with the lowest held-out loss. The ledger ends with that step."""

    @model_validator(mode="after")
    def check_together(self) -> Self:
        """What one key asks of others."""
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("one of steps and epochs must be a number, the other null")
        packed = self.layout == "packed"
        given = {name: getattr(self, name) is not None for name in ("tokens_per_step", "pack_length")}
        if any(there != packed for there in given.values()) or (self.conversations_per_step is None) != packed:
            raise ValueError(
                "layout packed takes tokens_per_step and pack_length, padded and flattened take conversations_per_step; "
                "the others must be null"
            )
        if self.tokens_per_step is not None and self.tokens_per_step % (self.pack_length or 1):
            raise ValueError("tokens_per_step must be a multiple of pack_length")
        if self.eval_steps is None and (self.early_stopping is not None or self.keep == "best"):
            raise ValueError("early_stopping and keep: best look at the held-out loss, so eval_steps must be a number")
        return self


def train(
    base: Input, tokens: Input, custom_adapter: Input, adapter: Output, params: TrainParams, runtime: Runtime
) -> Finish:
    """Train on the rows of train.arrow as they are: the labels are the template stage's.

    What is returned removes the checkpoints: to be called when the adapter is in its place and nothing can be lost any more.

    Raises:
        StageError: a row without a label, too long or with an id that the model lacks; a target module that the model lacks;
            a step without a gradient or with a loss that is no number; another training in this project; a signal to stop, after
            which the same command goes on where this one stopped; less memory than the smallest plan takes.
    """
    task = read_task(base, tokens, custom_adapter, params)
    folder = scratch() / "checkpoints"
    with one_trainer(folder):
        prepare_process(base, runtime)
        with own_gpu(runtime) as count:
            fit, workload = fit_training(task, folder, runtime, processes=count)
            try:
                with processes(count, (base, tokens, custom_adapter), params, fit) as group:
                    trainer, work = carry_out(task, fit, group)
                write_outputs(task, trainer, work, adapter)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                failed = True
            else:
                failed = False
        if failed:
            taken = fit_of(fit, workload.setup.shape.layers)
            asked, smaller = asked_for(params, runtime), next_smaller(workload, taken)
            go_on_smaller(folder, asked, workload.setup, taken, smaller, alone=launched() is None)

    def finish() -> None:
        work.checkpoints.remove()
        forget(folder)

    return finish


def take_part(
    base: Path,
    tokens: Path,
    custom_adapter: Path,
    params: TrainParams,
    runtime: FittedRuntime,
    join: Callable[[], Group],
) -> None:
    """What a process that another one has started does of a training: all but the outputs. `join` gives the group."""
    task = read_task(base, tokens, custom_adapter, params)
    prepare_process(base, runtime)
    carry_out(task, runtime, join())


def read_task(base: Path, tokens: Path, custom_adapter: Path, params: TrainParams) -> Task:
    """What is to be trained, checked. Raises StageError if it cannot be."""
    table = token_files.read_tokens(tokens / token_files.TRAIN)
    embedding_rows, trained_rows = embedding_plan(base, tokens)
    check_rows(table, read_config(base), embedding_rows, params.pack_length)
    if params.init_adapter == "custom":
        check_first(custom_adapter, params.lora.model_dump(), base_digests(base))
    rows = TokenRows(table)
    return Task(base, tokens, custom_adapter, params, rows, planned(rows, params), embedding_rows, trained_rows)


def carry_out(task: Task, runtime: FittedRuntime, group: Group) -> "tuple[SFTTrainer, Work]":
    """Load the model and train from the last checkpoint; the trainer's model has then what is kept."""
    base, tokens, params = task.base, task.tokens, task.params
    started = time.monotonic()
    model, tokenizer = load_model(
        base,
        tokens,
        params.lora,
        runtime,
        load_in_4bit=params.load_in_4bit,
        dtype=params.dtype,
        seed=params.seed,
        embedding_rows=task.embedding_rows,
        trained_rows=task.trained_rows,
        group=group,
    )
    if params.init_adapter == "custom":
        put_first(model, task.custom_adapter)
    inputs = fingerprint(task, runtime, model)
    # relative: the other processes read the first one's in a folder of theirs
    checkpoints = Checkpoints(scratch().relative_to(Path.cwd()) / "checkpoints", inputs)
    if group.rank == 0:
        checkpoints.tidy()
    work = make_work(task.rows, task.plan, tokens, tokenizer, checkpoints, params, runtime, group)
    trainer = make_trainer(model, tokenizer, tokens, work, params, runtime)
    loaded = time.monotonic()
    group.join(on_gpu=device(runtime) == "cuda")
    if launched() is not None:
        check_same(group, inputs)
    # a signal before this ends the process at once: nothing is lost yet
    with (
        stop_noted() as work.stop,
        brought(checkpoints, group),
        progress("training", plan_tokens(task.plan, task.rows), "tokens") as work.watch.advance,
    ):
        trainer.carry_out(work)
        if not work.finished():
            raise StageError(
                f"stopped by {work.stopped_by()} after step {work.watch.step}, which is saved: run it again to go on from there"
            )
    if group.rank == 0:
        note_execution(work, runtime, started, loaded)
    return trainer, work


def write_outputs(task: Task, trainer: "SFTTrainer", work: "Work", adapter: Path) -> None:
    """Write the adapter's folder."""
    training = contract.Training(
        base=base_digests(task.base),
        load_in_4bit=task.params.load_in_4bit,
        dtype=compute_dtype(trainer.model),
        embedding_rows=task.embedding_rows,
        trained_rows=task.trained_rows,
        steps=work.kept_step(),
    )
    write_adapter(trainer.model, work, task.base, task.tokens, adapter, training)


def plan_tokens(plan: Plan, rows: TokenRows) -> int:
    """Tokens that a plan trains on, without filling."""
    return sum(rows.lengths[row] for step in plan.steps for sequence in step for row in sequence)


def planned(rows: TokenRows, params: TrainParams) -> Plan:
    """The steps that the params make of the rows."""
    if params.layout == "packed":
        sequences = (params.tokens_per_step or 0) // (params.pack_length or 1)
    else:
        sequences = params.conversations_per_step or 0
    return make_plan(
        rows.lengths,
        params.layout,
        params.seed,
        steps=params.steps,
        epochs=params.epochs,
        sequences=sequences,
        pack_length=params.pack_length,
    )


def fingerprint(task: Task, runtime: Runtime, model: "PeftModel") -> dict[str, object]:
    """All that shapes a training's result: a checkpoint is resumed only where it is the same. Micro-batch and save cadence may differ."""
    custom = task.params.init_adapter == "custom"
    return {
        "base": base_digests(task.base),
        "tokens": sha256_files(task.tokens),
        "first_adapter": sha256_files(task.custom_adapter) if custom else None,
        "params": task.params.model_dump(mode="json"),
        "code": project_code(),
        "versions": versions(),
        "device": device(runtime),
        "dtype": compute_dtype(model),
    }


def uses(params: TrainParams, _inputs: Mapping[str, Path]) -> dict[str, list[str]]:
    """Of an adapter to go on from nothing, unless `init_adapter` asks for it."""
    return {} if params.init_adapter == "custom" else {"custom_adapter": []}


def main() -> None:
    """The stage's command, or another process's part in it (`stages.training.distributed.torchrun`)."""
    try:
        launch = launched()
    except StageError as error:
        sys.exit(f"train: {error}")
    if launch is None and os.environ.get(ASKED):
        die_with_parent()
        launch_here("stages.train")
    elif launch is None or launch.rank == 0:
        run(train, uses)
    else:
        die_with_parent()
        take_part_launched(launch)


if __name__ == "__main__":
    main()
