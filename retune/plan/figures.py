"""What `retune plan` says: memory, steps, time and disk of a training, from the params, the base's headers and the tokens' lengths."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from retune.execution import read_execution
from stages.contracts import tokens as token_files
from stages.core.errors import StageError
from stages.core.params import Runtime, section_params
from stages.models.base_model import embedding_plan, read_config, weight_files
from stages.template import TemplateParams
from stages.training.memory.estimate import GIB, Memory, describe_plan
from stages.training.memory.fit import heldout_lengths, read_shape
from stages.training.memory.gpu import Gpu
from stages.training.memory.plan import (
    MARGIN,
    FittedRuntime,
    Workload,
    find_fastest,
    fit_runtime,
    list_plans,
    make_workload,
    read_plan,
)
from stages.training.memory.step_time import UNKNOWN_RATE, rate_of, seconds
from stages.training.params import TrainParams
from stages.training.step_plan import StepPlan
from stages.training.task import plan_steps
from stages.training.token_rows import TokenRows

CARDS = (6, 8, 12, 16, 24, 80)
"""GB of the usual cards."""
TAKEN = 1.2 * GIB
"""Of a card by its driver, a desktop and CUDA itself."""
GGUF_BITS: Mapping[str, float] = {
    "f16": 16, "bf16": 16, "q8_0": 8.5, "q6_k": 6.6, "q5_k_m": 5.8, "q5_k_s": 5.6, "q4_k_m": 5.0, "q4_k_s": 4.7, "iq4_nl": 4.6,
    "q4_0": 4.6, "q3_k_m": 4.2,
}  # fmt: skip
"""Bits a weight, about: small models, whose embedding counts, are somewhat above what large ones have."""
CHECKPOINTS = 3
"""The two that are kept, and the one that is being written."""


@dataclass(frozen=True)
class Project:
    """What the project's files say."""

    params: TrainParams
    runtime: Runtime
    values: Mapping[str, Any]
    """All of params.yaml."""
    base: Path
    tokens: Path
    earlier: Mapping[str, Any]
    """Figures of data/execution/train.json; empty where there is none that can be read."""

    @property
    def has_tokens(self) -> bool:
        """Whether data/tokens is there."""
        return (self.tokens / token_files.TRAIN).is_file()


def read_project(root: Path, values: dict[str, Any]) -> Project:
    """Raises StageError for params that are not right, or where there is no base."""
    base, (earlier, _) = root / "data/base", read_execution(root, "train")
    if not (base / "config.json").is_file():
        raise StageError("data/base is not there yet: `dvc repro fetch_model` brings it")
    return Project(
        params=section_params(TrainParams, "train", values),
        runtime=section_params(Runtime, "runtime", values),
        values=values,
        base=base,
        tokens=root / "data/tokens",
        earlier=earlier["figures"] if earlier else {},
    )


def find_figures(project: Project, gpus: list[Gpu]) -> dict[str, Any]:
    """All that is said, as JSON values; bytes and seconds are whole numbers."""
    rows, plan, heldout = read_rows_and_plan(project)
    gpu = gpus[0] if gpus and project.runtime.device != "cpu" else None
    count = project.runtime.processes or (len(gpus) if gpu else 1)
    rate = rate_of(gpu.name) if gpu else None
    embedding_rows, trained = embedding_plan(project.base, project.tokens) if project.has_tokens else (None, [])
    asked = project.runtime.micro_batch
    workload = make_workload(
        read_config(project.base),
        read_shape(project.base, embedding_rows),
        project.params,
        plan,
        rows.lengths,
        heldout,
        on_gpu=gpu is not None or project.runtime.device != "cpu",
        trained_rows=len(trained),
        capability=gpu.capability if gpu else None,
        processes=count,
        sharding=project.runtime.sharding,
        rate=rate or UNKNOWN_RATE,
        micro_batch=None if asked == "auto" else asked,
    )
    if workload.not_sharded is not None:
        raise StageError(workload.not_sharded)
    tokens = plan.tokens(rows.lengths)
    epoch = sum(rows.lengths) if project.has_tokens else 0
    found: dict[str, Any] = {
        "base": {
            "model_type": workload.setup.shape.kind,
            "weights": workload.setup.shape.linear + workload.setup.shape.other,
            "in_4_bit": project.params.load_in_4bit,
            "trained_parameters": workload.setup.trained,
            "forward": "fused" if workload.setup.fused else "unsloth",
            "not_fused": workload.not_fused,
        },
        "steps": steps_of(project, plan, rows, tokens),
        "gpu": None if gpu is None else {"name": gpu.name, "total": round(gpu.total), "free": round(gpu.free)},
        "processes": count,
        "shards": workload.setup.shards,
        "plan": None,
        "cards": None,
        "disk": estimate_disk(project, workload),
    }
    if gpu is not None:
        room = gpu.room(project.runtime.memory_limit_gb)
        runtime = fit_runtime(project.runtime, workload, on_gpu=True, room=room)
        found["plan"] = {"room": round(room), **plan_figures(workload, runtime, room)}
        found["time"] = estimate_time(project, workload, runtime, gpu.name, tokens, epoch, known=rate is not None)
    else:
        found["time"] = estimate_time(project, workload, None, "cpu", tokens, epoch, known=False)
        if project.runtime.device != "cpu":
            found["cards"] = [estimate_card(project, workload, size) for size in card_sizes(project.runtime)]
    return found


def read_rows_and_plan(project: Project) -> tuple[TokenRows, StepPlan, list[int]]:
    """(training rows, steps, lengths of held-out rows); without data/tokens one step of rows as long as they may be."""
    if project.has_tokens:
        rows = TokenRows(token_files.read_tokens(project.tokens / token_files.TRAIN))
        if not len(rows):
            raise StageError("data/tokens has no training rows")
        try:
            return rows, plan_steps(rows, project.params), heldout_lengths(project.tokens, project.params)
        except ValueError as error:
            raise StageError(f"train.pack_length: {error}") from error
    longest = section_params(TemplateParams, "template", dict(project.values)).max_length
    count = project.params.conversations_per_step or (project.params.tokens_per_step or 0) // (
        project.params.pack_length or 1
    )
    ids = [[0] * min(longest, project.params.pack_length or longest)] * count
    columns = {"row_id": [str(number) for number in range(count)], "input_ids": ids, "labels": ids}
    rows = TokenRows(pa.table(columns, schema=token_files.SCHEMA))
    one = project.params.model_copy(update={"steps": 1, "epochs": None})
    return (
        rows,
        plan_steps(rows, one),
        [longest] * min(project.params.eval_rows, 64) if project.params.eval_steps else [],
    )


def steps_of(project: Project, plan: StepPlan, rows: TokenRows, tokens: int) -> dict[str, Any]:
    """Steps, tokens and epochs of the training; only what the params say where there are no tokens yet."""
    params = project.params
    found: dict[str, Any] = {"layout": params.layout, "steps": params.steps, "epochs": params.epochs, "known": False}
    found |= {"conversations_per_step": params.conversations_per_step, "tokens_per_step": params.tokens_per_step}
    if not project.has_tokens:
        return found
    steps = len(plan.steps)
    epochs = plan.epoch(steps)
    found |= {"known": True, "steps": steps, "epochs": round(epochs, 4), "tokens": tokens}
    # an epoch has every row once, so no row comes twice before all have come
    found |= {"rows_reached": min(plan.ends[-1], len(rows))}
    found |= {"mean_tokens_per_step": round(tokens / steps), "rows": len(rows), "epoch_tokens": sum(rows.lengths)}
    return found


def plan_figures(workload: Workload, runtime: FittedRuntime, room: float) -> dict[str, Any]:
    """A plan of execution and what it takes."""
    layers = workload.setup.shape.layers
    execution = read_plan(runtime, layers)
    held = workload.estimate(execution).memory
    return {
        "words": describe_plan(workload.setup, execution),
        "micro_batch": execution.micro_batch,
        "kept_layers": execution.kept_layers,
        "layers": layers,
        "loss_rows": execution.loss_rows if workload.setup.fused else None,
        "tokens": workload.sizes[min(execution.micro_batch, max(workload.sizes))].largest,
        "memory": parts(held),
        "fits": held.reserved * MARGIN <= room,
    }


def parts(held: Memory) -> dict[str, int]:
    """Memory by what it is for."""
    names = ("weights", "adapter", "optimizer", "activations", "working", "allocated", "reserved")
    return {name: round(getattr(held, name)) for name in names}


def card_sizes(runtime: Runtime) -> list[float]:
    """GiB of the cards that are looked at: with `memory_limit_gb`, that and no other."""
    return list(map(float, CARDS)) if runtime.memory_limit_gb is None else [runtime.memory_limit_gb]


def estimate_card(project: Project, workload: Workload, size: float) -> dict[str, Any]:
    """What a card of so many GiB would take: the params as they are, and the fastest plan that fits."""
    limited = project.runtime.memory_limit_gb is not None
    room = size * GIB - (0 if limited else TAKEN)
    asked = fit_runtime(project.runtime, workload, on_gpu=True, room=room)
    best = find_fastest(list_plans(workload, micro_batch=None, kept_layers=None), room)
    found: dict[str, Any] = {
        "gib": size,
        "room": round(room),
        "asked": plan_figures(workload, asked, room),
        "best": None,
    }
    if best is not None:
        free = project.runtime.model_copy(update={"micro_batch": "auto", "gradient_checkpointing": "auto"})
        found["best"] = plan_figures(workload, fit_runtime(free, workload, on_gpu=True, room=room), room)
    return found


def estimate_time(
    project: Project,
    workload: Workload,
    runtime: FittedRuntime | None,
    name: str,
    tokens: int,
    epoch_tokens: int,
    *,
    known: bool,
) -> dict[str, Any] | None:
    """Tokens a second and seconds, and where the figure is from; None where nobody can say.

    Args:
        project: the project.
        workload: what is trained.
        runtime: how, on a GPU.
        name: of the GPU, or cpu.
        tokens: of the whole training.
        epoch_tokens: of one epoch; 0 where they are not known.
        known: whether the GPU's rate is.
    """
    earlier, shape = project.earlier, workload.setup.shape
    of_plan = earlier.get("plan", {})
    same = (earlier.get("device"), earlier.get("layout"), of_plan.get("base_weights"), of_plan.get("load_in_4bit"))
    # what was resumed has taken some steps alone, maybe the last one with few rows: no measure of all
    whole = not earlier.get("resumed_after_step")
    if whole and same == (name, project.params.layout, shape.linear + shape.other, project.params.load_in_4bit):
        a_second, source = (
            float(earlier["tokens_per_second"]),
            "measured by the last training, which ran on the same kind of machine",
        )
    elif runtime is not None and known:
        execution = read_plan(runtime, shape.layers)
        amount = workload.sizes[min(execution.micro_batch, max(workload.sizes))].amount
        a_second = tokens / seconds(workload.setup, execution, amount, workload.rate)
        source = "estimate, from floating-point operations and the usual rate of such a GPU"
    else:
        return None
    found: dict[str, Any] = {"tokens_per_second": round(a_second), "source": source}
    if epoch_tokens:
        found |= {"seconds": round(tokens / a_second), "seconds_per_epoch": round(epoch_tokens / a_second)}
    return found


def estimate_disk(project: Project, workload: Workload) -> dict[str, Any]:
    """Bytes that the stages after this will write; DVC's cache keeps each output once more where it cannot link."""
    weights = workload.setup.shape.linear + workload.setup.shape.other
    trained = workload.setup.trained
    checkpoint = trained * (4 + (2 if workload.setup.eight_bit else 8) + (4 if project.params.keep == "best" else 0))
    asked = project.values.get("gguf", {}).get("quantizations", [])
    return {
        "adapter": trained * 4,
        "checkpoints": checkpoint * CHECKPOINTS if project.runtime.save_steps else 0,
        "merged": sum(file.stat().st_size for file in weight_files(project.base)),
        "gguf": {name: round(weights * GGUF_BITS[name] / 8) for name in asked if name in GGUF_BITS},
    }
