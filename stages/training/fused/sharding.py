"""The frozen linear layers of a 16-bit base, spread over the processes of a training: what FSDP and ZeRO-3 do, for weights nobody trains.

A process keeps its part of the rows of each group of the fused forward (`fused.projections`). Before a product all parts are gathered into a
buffer that the groups of one kind share, while the product before is under way. The adapter, its gradients and its optimizer are whole
in every process, so steps, checkpoints and the adapter's folder are those of an unsharded training.

To gather takes all processes: each must ask for the same groups in the same order. So a pass (one forward, or forward and backward) is
announced before it begins; a process that has no micro-batch left, or broke off in the middle of one, still gathers with the others.
"""

from typing import TYPE_CHECKING, Any

import torch

from stages.core.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from stages.training.distributed.process_group import ProcessGroup
    from stages.training.fused.projections import ProjectionGroup

NOTHING, FORWARD, TRAINING = 0, 1, 2
"""What a process announces: no pass, a pass without gradients, one with."""


class Shards:
    """The weights of all groups, of which this process keeps a part.

    Args:
        processes: those of the training; two or more. They may join later than the groups are made.
        place: the device to compute on; the layers' weights may still be on the host.
    """

    def __init__(self, processes: "ProcessGroup", place: torch.device) -> None:
        self.processes, self.place = processes, place
        self.buffers: dict[int, Tensor] = {}
        """{kind of group: [rows up to a multiple of the processes, columns]}."""
        self.held: dict[int, ProjectionGroup] = {}
        """{kind of group: whose weights are in the buffer, or on the way}."""
        self.coming: dict[int, Any] = {}
        """{kind of group: the gathering under way}."""
        self.passes: Mapping[int, Sequence[ProjectionGroup]] = {}
        self.order: Sequence[ProjectionGroup] = ()
        self.next = 0
        processes.catch_up = self.catch_up

    def keep(self, group: "ProjectionGroup") -> "Tensor":
        """This process's rows of a group's buffer, [rows / processes, columns]; the layers' own weights are given up."""
        size, rank = self.processes.size, self.processes.rank
        columns = group.width + group.ranks
        each = -(-(group.out + group.ranks) // size)
        if group.kind not in self.buffers:
            # at once, and not when first asked for: to gather must not fail for want of memory while the others wait
            self.buffers[group.kind] = torch.zeros((each * size, columns), dtype=group.a.dtype, device=self.place)
        part = torch.zeros((each, columns), dtype=group.a.dtype, device=self.place)
        first, start = rank * each, 0
        for base, rows in zip(group.bases, group.outs, strict=True):
            low, high = max(first, start), min(first + each, start + rows)
            if low < high:
                part[low - first : high - first, : group.width] = base.weight.data[low - start : high - start]
            # what asks for the shape is told it; there is one number behind it
            base.weight.data = torch.zeros((), dtype=part.dtype, device=self.place).expand(base.weight.shape)
            start += rows
        return part

    def begin(self, kind: int) -> None:
        """A pass begins here, so it does in all processes: what they do otherwise is to wait in `catch_up`."""
        self.finish()
        self.processes.find_largest(kind)
        self.start(kind)

    def catch_up(self) -> None:
        """Go through the passes that other processes still have. Returns when no process has any."""
        self.finish()
        while kind := self.processes.find_largest(NOTHING):
            self.start(kind)
            self.finish()

    def start(self, kind: int) -> None:
        """A pass of a kind: the adapter may have changed since the last one."""
        self.order, self.next = self.passes[kind], 0
        self.held.clear()

    def finish(self) -> None:
        """Gather what is left of a pass that was broken off here, and not in the other processes."""
        while self.next < len(self.order):
            self.take(self.order[self.next])

    def take(self, group: "ProjectionGroup") -> "Tensor":
        """[out + R, in + R] of a group, valid until the next one of its kind is asked for."""
        if self.next >= len(self.order) or self.order[self.next] is not group:
            raise StageError("the weights of a layer were asked for out of turn: set runtime.sharding to none")
        self.next += 1
        if self.held.get(group.kind) is not group:
            self.fetch(group)
        buffer = self.buffers[group.kind][: group.out + group.ranks]
        coming = self.coming.pop(group.kind, None)
        if coming is not None:
            coming.wait()
            buffer[: group.out, group.width :] = group.b
            buffer[group.out :, : group.width] = group.a
        if self.next < len(self.order):
            after = self.order[self.next]
            if after.kind != group.kind and self.held.get(after.kind) is not after:
                self.fetch(after)
        return buffer

    def fetch(self, group: "ProjectionGroup") -> None:
        """Begin to gather a group's weights. What was computed from the buffer until now is computed first."""
        self.held[group.kind] = group
        self.coming[group.kind] = self.processes.gather_into(self.buffers[group.kind], group.part)
