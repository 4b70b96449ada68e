"""How a training is fitted into the memory there is: micro-batch, layers that keep their activations, rows of logits at a time.

None of it changes what is learned: the plan of the steps (`stages.training.step_plan`) stays. Pure, without torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from stages.core.params import Runtime
from stages.training.fused_coverage import why_not_fused, why_not_sharded
from stages.training.memory.estimate import ExecutionPlan, Memory, MemorySetup, estimate_memory
from stages.training.memory.step_time import UNKNOWN_RATE, Amount, seconds, squared_mean
from stages.training.model_shape import ModelShape
from stages.training.params import TrainParams
from stages.training.step_plan import Layout, StepPlan, micro_batches

LOSS_ROWS = (4096, 2048, 1024, 512)
"""Rows of logits at a time that are tried: fewer take less memory and somewhat more time."""
CPU_CONVERSATIONS = 8
"""In a micro-batch on a CPU, where memory is no matter; one pack."""
MARGIN = 1.03
"""An estimate is taken for so many times what it says. One allocated peak that was measured is 3.2 % above its estimate, the others at
most 1.7 %; what was reserved is never above, since `OVER_ALLOCATED` is nearly the most that was seen."""
SMALLER = 0.9
"""Of the memory of a plan that did not fit: what the next one may take at most."""


class FittedRuntime(Runtime):
    """`runtime` with every `auto` of training decided."""

    micro_batch: Annotated[int, Field(ge=1)]
    gradient_checkpointing: Literal["unsloth", "on", "off"]
    kept_layers: int | None
    """Layers whose activations the fused forward keeps; None: all."""
    loss_rows: Annotated[int, Field(ge=1)]
    """Rows of logits that it holds at a time."""


@dataclass(frozen=True)
class MicroBatchSizes:
    """The micro-batches that a plan comes to with one choice of `runtime.micro_batch`."""

    largest: int
    """Tokens of the largest one, with filling."""
    heldout: int
    """Tokens of the largest batch of held-out rows."""
    amount: Amount


@dataclass(frozen=True)
class EstimatedPlan:
    """A plan of execution with its estimate."""

    execution: ExecutionPlan
    memory: Memory
    seconds: float
    """For the whole training, on a GPU of `UNKNOWN_RATE` unless told another: to compare plans with."""


@dataclass(frozen=True)
class Workload:
    """What is trained, as far as memory and time depend on it."""

    setup: MemorySetup
    sizes: Mapping[int, MicroBatchSizes]
    """By micro-batch, those that are tried, the smallest first."""
    rate: float = UNKNOWN_RATE
    packed: bool = False
    """Whether a sequence is a pack."""
    not_fused: str | None = None
    """Why the fused forward does not run it."""
    not_sharded: str | None = None
    """Why its base cannot be spread over the processes, where that is asked for."""

    def estimate(self, execution: ExecutionPlan) -> EstimatedPlan:
        """A plan with its estimate; a micro-batch that is not in `sizes` counts as the next larger one, or as the largest."""
        size = next((size for size in self.sizes if size >= execution.micro_batch), max(self.sizes))
        found = self.sizes[size]
        held = estimate_memory(self.setup, execution, found.largest, found.heldout)
        return EstimatedPlan(execution, held, seconds(self.setup, execution, found.amount, self.rate))


def make_workload(
    config: Mapping[str, Any],
    shape: ModelShape,
    params: TrainParams,
    plan: StepPlan,
    lengths: Sequence[int],
    heldout: Sequence[int],
    *,
    on_gpu: bool,
    trained_rows: int = 0,
    capability: float | None = None,
    processes: int = 1,
    sharding: str = "none",
    micro_batch: int | None = None,
    rate: float = UNKNOWN_RATE,
) -> Workload:
    """What the params make of a base and rows.

    Args:
        config: the base's config.json.
        shape: of the base.
        params: the `train` section.
        plan: the steps.
        lengths: tokens of the training rows.
        heldout: tokens of the held-out rows that are measured.
        on_gpu: whether it is trained on a GPU.
        trained_rows: rows of the embedding that are trained.
        capability: the GPU's compute capability.
        processes: that share a step.
        sharding: as `runtime.sharding`.
        micro_batch: one that is to be among those that are tried.
        rate: the GPU's operations a second.
    """
    reason = why_not_fused(
        config, shape, params.lora, layout=params.layout, dtype=params.dtype, trained_rows=trained_rows, capability=capability
    )  # fmt: skip
    sharded = sharding == "fsdp" and processes > 1
    setup = MemorySetup(
        shape=shape,
        lora=params.lora,
        load_in_4bit=params.load_in_4bit,
        eight_bit=on_gpu and "8bit" in params.optimizer,
        fused=on_gpu and reason is None,
        item=4 if params.dtype == "float32" else 2,
        trained_rows=trained_rows,
        processes=processes,
        shards=processes if sharded else 1,
    )
    # on a CPU the model itself is asked, when it is loaded
    not_sharded = why_not_sharded(
        load_in_4bit=params.load_in_4bit, layout=params.layout, not_fused=reason if on_gpu else None
    )
    whole = -(-max(map(len, plan.steps)) // processes)
    tried = {1 << power for power in range(whole.bit_length())} | {whole} | {min(micro_batch or whole, whole)}
    sizes = {
        size: measure_micro_batches(plan, lengths, heldout, params.layout, params.pack_length, size, processes)
        for size in sorted(tried)
    }
    return Workload(setup, sizes, rate, params.layout == "packed", reason, not_sharded if sharded else None)


def measure_micro_batches(
    plan: StepPlan,
    lengths: Sequence[int],
    heldout: Sequence[int],
    layout: Layout,
    pack_length: int | None,
    size: int,
    processes: int = 1,
) -> MicroBatchSizes:
    """The micro-batches of the first process, which has the longest rows."""
    largest = run = count = tokens = 0
    for step in plan.steps:
        for part in micro_batches(step, lengths, size, ranks=processes):
            rows = [[lengths[row] for row in sequence] for sequence in part]
            real = sum(map(sum, rows))
            filled = real
            if layout == "padded":
                filled = len(rows) * max(map(sum, rows))
            elif pack_length is not None:
                filled = len(rows) * pack_length
            largest, run, count, tokens = max(largest, filled), run + filled, count + 1, tokens + real
    longest = sorted(heldout, reverse=True)
    measured = sum(longest[:size]) if layout == "flattened" else size * max(longest, default=0)
    if pack_length is not None:
        measured = min(size * pack_length, sum(longest))
    return MicroBatchSizes(largest, measured, Amount(tokens, run, count, squared_mean(lengths)))


def list_plans(work: Workload, *, micro_batch: int | None, kept_layers: int | None) -> list[EstimatedPlan]:
    """Every plan that is tried, the fastest first; equal ones by what they take.

    Args:
        work: what is trained.
        micro_batch: the only one wanted, or None.
        kept_layers: the only number wanted, or None.
    """
    layers = work.setup.shape.layers
    kept = [kept_layers] if kept_layers is not None else list(range(layers + 1)) if work.setup.fused else [0, layers]
    sizes = [micro_batch] if micro_batch is not None else list(work.sizes)
    rows = LOSS_ROWS if work.setup.fused else LOSS_ROWS[:1]
    found = [work.estimate(ExecutionPlan(size, number, loss)) for size in sizes for number in kept for loss in rows]
    return sorted(found, key=lambda choice: (choice.seconds, -choice.execution.loss_rows, choice.memory.reserved))


def find_fastest(found: Sequence[EstimatedPlan], room: float) -> EstimatedPlan | None:
    """The fastest that `room` bytes are enough for; None if there is none."""
    return next((choice for choice in found if choice.memory.reserved * MARGIN <= room), None)


def find_smallest(found: Sequence[EstimatedPlan]) -> EstimatedPlan:
    """The one that takes the least."""
    return min(found, key=lambda choice: (choice.memory.reserved, choice.seconds))


def find_smaller(work: Workload, execution: ExecutionPlan) -> ExecutionPlan | None:
    """What to try where a plan ran out of memory; None if nothing takes less."""
    before = work.estimate(execution).memory
    found = [
        choice
        for choice in list_plans(work, micro_batch=None, kept_layers=None)
        if choice.execution.micro_batch <= execution.micro_batch
    ]
    # what stands is the same in all: a plan must take clearly less of the rest
    rest = before.activations + before.working
    smaller = [choice for choice in found if choice.memory.activations + choice.memory.working <= SMALLER * rest]
    if smaller:
        return smaller[0].execution
    least = find_smallest(found)
    return least.execution if least.memory.allocated < before.allocated else None


def fit_runtime(runtime: Runtime, work: Workload, *, on_gpu: bool, room: float | None) -> FittedRuntime:
    """`runtime` with `auto` decided for `room` bytes of a GPU; where nothing fits, the plan that takes the least."""
    layers = work.setup.shape.layers
    size = None if runtime.micro_batch == "auto" else runtime.micro_batch
    kept = {"auto": None, "off": layers}.get(runtime.gradient_checkpointing, 0)
    if not on_gpu or room is None:
        size = size or (1 if work.packed else min(CPU_CONVERSATIONS, max(work.sizes)))
        return apply_plan(runtime, ExecutionPlan(size, layers if kept is None else kept, LOSS_ROWS[0]), work)
    found = list_plans(work, micro_batch=size, kept_layers=kept)
    return apply_plan(runtime, (find_fastest(found, room) or find_smallest(found)).execution, work)


def apply_plan(runtime: Runtime, execution: ExecutionPlan, work: Workload) -> FittedRuntime:
    """`runtime` with a plan in it."""
    layers = work.setup.shape.layers
    policy: str = runtime.gradient_checkpointing
    if execution.kept_layers >= layers:
        policy = "off"
    elif policy in ("auto", "off"):
        policy = "unsloth"
    changed = {
        "micro_batch": execution.micro_batch,
        "gradient_checkpointing": policy,
        "kept_layers": None if execution.kept_layers >= layers else execution.kept_layers,
        "loss_rows": execution.loss_rows,
    }
    return FittedRuntime.model_validate({**runtime.model_dump(), **changed})


def read_plan(runtime: FittedRuntime, layers: int) -> ExecutionPlan:
    """The plan in a runtime."""
    return ExecutionPlan(
        runtime.micro_batch, layers if runtime.kept_layers is None else runtime.kept_layers, runtime.loss_rows
    )
