"""The plan of execution for a base, rows and a machine: reads what `stages.training.memory.plan` needs, and says what came out."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from stages.contracts import tokens as token_files
from stages.core.errors import StageError
from stages.core.execution import note_figures
from stages.core.params import Runtime
from stages.models.base_model import device, read_config, weight_files
from stages.models.safetensors_header import read_header
from stages.training.memory.estimate import GIB, ExecutionPlan, describe_plan
from stages.training.memory.gpu import limit_allocator, limit_room
from stages.training.memory.out_of_memory import read_note
from stages.training.memory.plan import (
    MARGIN,
    FittedRuntime,
    Workload,
    apply_plan,
    fit_runtime,
    make_workload,
    read_plan,
)
from stages.training.memory.step_time import UNKNOWN_RATE, rate_of
from stages.training.model_shape import ModelShape
from stages.training.params import TrainParams
from stages.training.task import Task

log = logging.getLogger("retune")


def read_shape(base: Path, embedding_rows: int | None) -> ModelShape:
    """The base's sizes, from its config and the heads of its weight files. Raises StageError if the config lacks one."""
    tensors: dict[str, tuple[int, ...]] = {}
    for file in weight_files(base):
        tensors |= {name: tensor.shape for name, tensor in read_header(file).items()}
    try:
        return ModelShape.of(read_config(base), tensors, embedding_rows)
    except ValueError as error:
        raise StageError(str(error)) from error


def heldout_lengths(tokens: Path, params: TrainParams) -> list[int]:
    """Tokens of the held-out rows that are measured while training."""
    if not params.eval_steps:
        return []
    ids = token_files.read_tokens(tokens / token_files.HELDOUT)["input_ids"]
    lengths: list[int] = pc.list_value_length(ids.slice(0, params.eval_rows)).to_pylist()
    return lengths


def plan_inputs(params: TrainParams, runtime: Runtime) -> dict[str, Any]:
    """What a plan of execution is made of, machine and rows apart: a note about memory holds for the same alone."""
    keys = {"micro_batch", "memory_limit_gb", "gradient_checkpointing", "sharding"}
    return {"train": params.model_dump(mode="json"), "runtime": runtime.model_dump(mode="json", include=keys)}


def fit_training(task: Task, folder: Path, runtime: Runtime, *, processes: int) -> tuple[FittedRuntime, Workload]:
    """`runtime` with `auto` decided for this machine, or what `folder` notes after a training that ran out of memory; and what is trained.

    Sets the limit of torch's allocator where `runtime.memory_limit_gb` asks for one, and notes the plan for the execution record.
    Raises StageError if `runtime.sharding` is not for this training.
    """
    import torch

    on_gpu = device(runtime) == "cuda"
    room = capability = rate = None
    if on_gpu:
        # before anything is asked of the GPU: Unsloth sets how torch's allocator works, which is read once
        import unsloth  # noqa: F401

        free, _ = torch.cuda.mem_get_info()
        major, minor = torch.cuda.get_device_capability()
        room, capability = limit_room(free, runtime.memory_limit_gb), major + minor / 10
        rate = rate_of(torch.cuda.get_device_name())
        limit_allocator(runtime.memory_limit_gb)
    workload = make_workload(
        read_config(task.base),
        read_shape(task.base, task.embedding_rows),
        task.params,
        task.plan,
        task.rows.lengths,
        heldout_lengths(task.tokens, task.params),
        on_gpu=on_gpu,
        trained_rows=len(task.trained_rows),
        capability=capability,
        processes=processes,
        sharding=runtime.sharding,
        rate=rate or UNKNOWN_RATE,
        micro_batch=None if runtime.micro_batch == "auto" else runtime.micro_batch,
    )
    if workload.not_sharded is not None:
        raise StageError(workload.not_sharded)
    earlier = read_note(folder, plan_inputs(task.params, runtime))
    chosen = (
        fit_runtime(runtime, workload, on_gpu=on_gpu, room=room)
        if earlier is None
        else apply_plan(runtime, earlier, workload)
    )
    say_plan(workload, read_plan(chosen, workload.setup.shape.layers), room, after_failure=earlier is not None)
    return chosen, workload


def say_plan(workload: Workload, execution: ExecutionPlan, room: float | None, *, after_failure: bool) -> None:
    """The plan in the log and in the execution record."""
    held = workload.estimate(execution).memory
    why = ", since a larger plan ran out of memory" if after_failure else ""
    if room is None:
        log.info("plan: %s%s", describe_plan(workload.setup, execution), why)
    else:
        log.info(
            "plan: %s; about %.1f of %.1f GiB%s",
            describe_plan(workload.setup, execution),
            held.reserved / GIB,
            room / GIB,
            why,
        )
        if held.reserved * MARGIN > room:
            log.warning("the plan is estimated to take more memory than there is; `retune plan` shows what would fit")
    note_figures(plan=plan_record(workload, execution, after_failure=after_failure))


def plan_record(workload: Workload, execution: ExecutionPlan, *, after_failure: bool) -> Mapping[str, Any]:
    """The plan for the execution record."""
    setup, held = workload.setup, workload.estimate(execution).memory
    return {
        "micro_batch": execution.micro_batch,
        "kept_layers": execution.kept_layers,
        "layers": setup.shape.layers,
        "loss_rows": execution.loss_rows,
        "fused": setup.fused,
        "after_out_of_memory": after_failure,
        "estimated_allocated_mib": math.ceil(held.allocated / 2**20),
        "estimated_reserved_mib": math.ceil(held.reserved / 2**20),
        "base_weights": setup.shape.linear + setup.shape.other,
        "load_in_4bit": setup.load_in_4bit,
        "shards": setup.shards,
    }
