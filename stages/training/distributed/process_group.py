"""The processes of one training, as each of them sees it: what they add up, tell each other and agree on.

The groups are made here and registered nowhere (`torch.distributed.is_initialized()` stays false, no RANK or WORLD_SIZE is left): for
Unsloth, transformers and accelerate each process trains alone, and a step's gradients are added up once, after its last micro-batch.
Wrapping the model (DDP) would depend on what Unsloth's patched forward does with hooks, and would add up for every micro-batch.
"""

import hashlib
import logging
import os
import pickle
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch.distributed import Store

log = logging.getLogger("retune")

LOOPBACK = "127.0.0.1"
LOOPBACK_INTERFACE = "lo"
PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others: the first one may write a checkpoint or load from a slow disk meanwhile."""
GRACE = 10.0
"""Seconds that a process has for an error of its own when another is lost; a wait for a GPU may have no end."""
LOOK_EVERY = 0.1
"""Seconds between two looks whether all have loaded."""


class ProcessGroup:
    """The processes of a training; one of size 1 does nothing and costs nothing.

    Args:
        rank: this process, from 0.
        size: processes.
        port: of the store on the loopback, which the first process makes; 0 there, and for size 1.
        store: one that is there already (`stages.training.distributed.torchrun`), in place of `port`.
        address: of this host, where the others reach it.
    """

    def __init__(
        self, rank: int = 0, size: int = 1, port: int = 0, *, store: "Store | None" = None, address: str = LOOPBACK
    ) -> None:
        self.rank, self.size, self.address = rank, size, address
        self.lost: Callable[[], bool] = lambda: False
        """Whether one of the others has ended. Only the first process knows."""
        self.catch_up: Callable[[], None] = lambda: None
        """Called before values are added up: this process may have to take part in what the others still do (`fused.sharding`)."""
        self.gloo: Any = None
        self.nccl: Any = None
        self.stopping = self.out_of_memory = False
        """What any process said in the last step: it was asked to stop; its memory was not enough."""
        self.store: Any = store
        if size > 1 and store is None:
            from torch.distributed import TCPStore

            self.store = TCPStore(LOOPBACK, port, is_master=rank == 0, wait_for_workers=False, timeout=PATIENCE)

    def join(self, *, on_gpu: bool) -> None:
        """Wait until all processes are here, then connect them. Raises ConnectionError if one is lost meanwhile."""
        if self.size == 1 or self.gloo is not None:
            return
        from torch.distributed import PrefixStore, ProcessGroupGloo

        self.store.set(f"loaded/{self.rank}", "")
        while not self.store.check([f"loaded/{rank}" for rank in range(self.size)]):
            if self.lost():
                raise ConnectionError("another process of this training has ended while it loaded")
            time.sleep(LOOK_EVERY)
        options = ProcessGroupGloo._Options()  # noqa: SLF001 - there is no other way to say which interface
        named = os.environ.get("GLOO_SOCKET_IFNAME")
        where = {"interface": named} if named and self.address != LOOPBACK else {"hostname": self.address}
        options._devices = [ProcessGroupGloo.create_device(**where)]  # noqa: SLF001
        options._timeout = PATIENCE  # noqa: SLF001
        self.gloo = ProcessGroupGloo(PrefixStore("gloo", self.store), self.rank, self.size, options)
        if on_gpu:
            from torch.distributed import ProcessGroupNCCL

            if self.address == LOOPBACK:
                os.environ.setdefault("NCCL_SOCKET_IFNAME", LOOPBACK_INTERFACE)
            nccl = ProcessGroupNCCL.Options()
            nccl._timeout = PATIENCE  # noqa: SLF001
            self.nccl = ProcessGroupNCCL(PrefixStore("nccl", self.store), self.rank, self.size, nccl)

    def leave(self) -> None:
        """Give up what waits for others, in whatever thread: one of them is lost."""
        abort = getattr(self.nccl, "abort", None)
        if abort is not None:
            abort()

    def add_up(self, values: "torch.Tensor") -> None:
        """Put the sum over all processes in place of `values`; every process gets the same bits."""
        if self.size > 1:
            self.catch_up()
            (self.nccl if values.is_cuda else self.gloo).allreduce([values]).wait()

    def take_first(self, values: "torch.Tensor") -> None:
        """Put the first process's values in place of `values`."""
        if self.size > 1:
            (self.nccl if values.is_cuda else self.gloo).broadcast(values, 0).wait()

    def find_largest(self, value: int) -> int:
        """The largest of all processes' values. Waits for all."""
        from torch.distributed import AllreduceOptions, ReduceOp

        if self.size == 1:
            return value
        import torch

        options, said = AllreduceOptions(), torch.tensor([value])
        options.reduceOp = ReduceOp.MAX
        self.gloo.allreduce([said], options).wait()
        return int(said)

    def gather_into(self, whole: "torch.Tensor", part: "torch.Tensor") -> Any:  # noqa: ANN401 - torch's Work has no type
        """Begin to put every process's `part` into `whole`, in the order of ranks; what is given back has `wait()`."""
        return (self.nccl if whole.is_cuda else self.gloo)._allgather_base(whole, part)  # noqa: SLF001 - the one of one tensor

    def gather(self, value: Any) -> list[Any]:  # noqa: ANN401 - anything that can be pickled
        """Every process's value, in the order of ranks. Waits for all."""
        if self.size == 1:
            return [value]
        import torch

        own = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.long) for _ in range(self.size)]
        self.gloo.allgather([sizes], [torch.tensor([own.numel()])]).wait()
        longest = max(int(size) for size in sizes)
        parts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
        padded = torch.nn.functional.pad(own, (0, longest - own.numel()))
        self.gloo.allgather([parts], [padded]).wait()
        # from processes that this one has started, or was started by, or whom torchrun has
        return [
            pickle.loads(part[: int(size)].numpy().tobytes())  # noqa: S301
            for part, size in zip(parts, sizes, strict=True)
        ]

    def end_backward(
        self, parameters: "list[torch.nn.Parameter]", loss: "torch.Tensor", *, stop: bool, out_of_memory: bool
    ) -> "torch.Tensor":
        """Add the gradients of a step up over the processes, and tell each other how it went; the whole step's loss is returned.

        Args:
            parameters: the trained ones, whose gradients are over this process's share of the step, or None where it had none.
            loss: sum over this process's share, over the labelled tokens of the whole step.
            stop: whether this process was asked to stop after the step.
            out_of_memory: whether its memory was not enough; its gradients are then worth nothing.
        """
        if self.size == 1:
            self.stopping, self.out_of_memory = stop, out_of_memory
            return loss
        import torch

        gradients = [
            torch.zeros_like(value) if value.grad is None or out_of_memory else value.grad for value in parameters
        ]
        said = torch.tensor([float(stop), float(out_of_memory)], device=loss.device)
        flat = torch.cat([*(part.reshape(-1).float() for part in gradients), loss.float().reshape(1), said])
        self.add_up(flat)
        *parts, whole, said = flat.split([*(part.numel() for part in gradients), 1, 2])
        for value, part in zip(parameters, parts, strict=True):
            value.grad = part.view_as(value).to(value.dtype)
        self.stopping, self.out_of_memory = (bool(part > 0) for part in said.tolist())
        return whole.reshape(loss.shape)

    def make_same(self, parameters: "list[torch.nn.Parameter]") -> None:
        """See that all processes have the same parameters, bit for bit; if not, the log says so and the first one's are taken."""
        if self.size == 1:
            return
        import torch

        digest = hashlib.sha256()
        for value in parameters:
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy())
        if len(set(self.gather(digest.hexdigest()))) > 1:
            log.warning("the processes' parameters are no longer the same: those of the first are taken")
            for value in parameters:
                self.take_first(value.data)
