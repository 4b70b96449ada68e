"""A training as one of its processes carries it out: load the model, take the steps, keep what can be gone on from."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.errors import StageError
from stages.core.execution import note_figures
from stages.core.files import scratch, sha256_files
from stages.core.params import Runtime
from stages.core.project_code import project_code
from stages.models.base_model import base_digests, device
from stages.show.progress import progress
from stages.training.checkpoints import Checkpoints, bring_checkpoint, note_stop
from stages.training.distributed.process_group import ProcessGroup
from stages.training.distributed.torchrun import check_same, read_launch
from stages.training.initial_adapter import put_first
from stages.training.lora import compute_dtype, load_model
from stages.training.memory.plan import FittedRuntime
from stages.training.observed_model import describe_path, is_fresh
from stages.training.observed_trainer import note_training
from stages.training.outputs import note_execution, versions
from stages.training.task import Task
from stages.training.trainer_setup import make_trainer, make_work

if TYPE_CHECKING:
    from peft import PeftModel
    from trl import SFTTrainer

    from stages.training.work import Work


def carry_out(task: Task, runtime: FittedRuntime, group: ProcessGroup) -> "tuple[SFTTrainer, Work]":
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
    fresh = is_fresh(model)
    inputs = fingerprint(task, runtime, model)
    # relative: the other processes read the first one's in a folder of theirs
    checkpoints = Checkpoints(scratch().relative_to(Path.cwd()) / "checkpoints", inputs)
    if group.rank == 0:
        checkpoints.tidy()
    work = make_work(task.rows, task.plan, tokens, tokenizer, checkpoints, params, runtime, group)
    trainer = make_trainer(model, tokenizer, tokens, work, params, runtime)
    loaded = time.monotonic()
    group.join(on_gpu=device(runtime) == "cuda")
    if read_launch() is not None:
        check_same(group, inputs)
    # a signal before this ends the process at once: nothing is lost yet
    with (
        note_stop() as work.stop,
        bring_checkpoint(checkpoints, group),
        progress("training", task.plan.tokens(task.rows.lengths), "tokens") as work.step_log.advance,
    ):
        trainer.carry_out(work)
        if not work.is_finished():
            raise StageError(
                f"stopped by {work.stop_signal()} after step {work.step_log.step}, which is saved: run it again to go on from there"
            )
    if group.rank == 0:
        note_execution(work, runtime, started, loaded)
        note_figures(**(describe_path(trainer.model) or {}))
        note_training(trainer, work, params, checkpointing=runtime.gradient_checkpointing, fresh=fresh)
    return trainer, work


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
