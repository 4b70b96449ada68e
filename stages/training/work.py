"""What a training is made of: its rows, the plan of its steps with their micro-batches, its notes, its checkpoints, its processes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stages.contracts.tokens import NOT_TRAINED
from stages.training.batches import MicroBatch, make_batch
from stages.training.checkpoints import Checkpoints
from stages.training.distributed.process_group import ProcessGroup
from stages.training.seen_steps import SeenSteps
from stages.training.step_log import StepLog
from stages.training.step_plan import Layout, micro_batches
from stages.training.token_rows import TokenRows

if TYPE_CHECKING:
    import torch


@dataclass
class Work:
    """What a training is made of."""

    rows: TokenRows
    heldout: TokenRows | None
    eval_rows: int
    layout: Layout
    micro_batch: int
    """Sequences in a forward pass, at most."""
    pad_id: int
    pack_length: int | None
    step_log: StepLog
    checkpoints: Checkpoints
    keep_best: bool
    """Whether the adapter of the lowest held-out loss is kept."""
    group: ProcessGroup
    """The processes that share each step."""
    stop: Callable[[], str | None] = lambda: None
    """The signal that asked this process to stop, if one did."""
    best: "dict[str, torch.Tensor] | None" = None
    """The trained parameters at the lowest held-out loss."""
    seen: SeenSteps = field(default_factory=SeenSteps)
    """What the model was given: by this process while it trains, by all when it has ended."""
    peak_gpu_mib: list[int] = field(default_factory=list)
    """What each process's GPU held at most; empty on a CPU."""

    def is_finished(self) -> bool:
        """Whether no step is to be taken any more."""
        return self.step_log.step >= len(self.step_log.plan.steps) or self.step_log.out_of_patience()

    def kept_step(self) -> int:
        """The step whose adapter is kept."""
        return self.step_log.step if self.best is None else self.step_log.best_step

    def is_stopping(self) -> bool:
        """Whether to stop after the step that has just ended; where processes share it, only what all of them know counts."""
        return self.group.stopping if self.group.size > 1 else self.stop() is not None

    def stop_signal(self) -> str:
        """The signal that asked to stop, for an error."""
        return self.stop() or "a signal to another of its processes"

    def count_labelled(self, step: int) -> int:
        """Tokens that the loss of a whole step (from 1) counts, over all processes: labelled, and not the first of their row."""
        first = (int(self.rows.labels[row][0] != NOT_TRAINED) for row in self.step_log.rows_of(step))
        return sum(self.rows.labelled[row] for row in self.step_log.rows_of(step)) - sum(first)

    def batches(self, step: int) -> list[MicroBatch]:
        """The micro-batches of this process's share of a step (from 1); none where the step has fewer sequences than processes."""
        step_rows, size = self.step_log.plan.steps[step - 1], self.micro_batch
        cut = micro_batches(step_rows, self.rows.lengths, size, rank=self.group.rank, ranks=self.group.size)
        return [make_batch(self.rows, self.layout, part, self.pad_id, self.pack_length) for part in cut]

    def heldout_batches(self) -> Iterator[MicroBatch]:
        """The first held-out rows, in batches of up to as many rows (in `packed`: tokens) as a micro-batch has, longest first."""
        if self.heldout is None:
            return
        lengths = self.heldout.lengths[: self.eval_rows]
        order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
        room, part = self.micro_batch * (self.pack_length or 0), list[int]()
        for row in order:
            full = len(part) == self.micro_batch
            if self.pack_length is not None:
                full = sum(lengths[number] for number in part) + lengths[row] > room
            if part and full:
                yield make_batch(self.heldout, self.layout, [part], self.pad_id, None)
                part = []
            part.append(row)
        if part:
            yield make_batch(self.heldout, self.layout, [part], self.pad_id, None)
