"""Several processes for one training on this machine: the stage's own is the first and starts the others, one for each GPU.

They end together. The others die with the first (Linux sends them SIGKILL); if one of them ends otherwise than well, the first stops
the rest and its error names it with the last lines that it said (`.retune/processes/N.log` has all of them). Where torchrun has started
all of them, maybe on several machines, `stages.training.distributed.torchrun` sees to that.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from stages.core.errors import StageError
from stages.core.params import Params, Runtime
from stages.training.distributed.child_processes import ChildProcesses
from stages.training.distributed.process_group import ProcessGroup
from stages.training.distributed.torchrun import join_launched_group, read_launch
from stages.training.memory.gpu import visible_gpus

log = logging.getLogger("retune")


def process_count(runtime: Runtime) -> int:
    """`runtime.processes`; null: one for each GPU, one on the CPU; under torchrun as many as it has started.

    Raises StageError if GPUs are used and this machine has fewer, or if torchrun has started another number.
    """
    there, launch = 0 if runtime.device == "cpu" else len(visible_gpus()), read_launch()
    count = runtime.processes or there or 1
    if launch is not None:
        if runtime.processes not in (None, launch.size):
            raise StageError(
                f"runtime.processes is {runtime.processes}, but torchrun has started {launch.size}: set it to null"
            )
        count = launch.size
    here = count if launch is None else launch.local_size
    if 0 < there < here:
        raise StageError(f"{here} processes are to run here, but torch sees {there} GPUs: each process needs its own")
    return count


@contextmanager
def take_own_gpu(runtime: Runtime) -> Iterator[int]:
    """In the block this process sees its GPU alone, and yielded is how many processes shall train: see `process_count`.

    It is the first one, or torchrun says which. Must come before anything has used a GPU. CUDA reads the variable once, so that
    putting it back is for what this process becomes.
    """
    count, before, launch = process_count(runtime), os.environ.get("CUDA_VISIBLE_DEVICES"), read_launch()
    several = runtime.device != "cpu" and len(visible_gpus()) > 1
    if several:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible_gpus()[0 if launch is None else launch.local_rank]
    try:
        yield count
    finally:
        if several:
            del os.environ["CUDA_VISIBLE_DEVICES"]
            os.environ.update({} if before is None else {"CUDA_VISIBLE_DEVICES": before})


@contextmanager
def start_processes(count: int, inputs: Sequence[Path], params: Params, runtime: Runtime) -> Iterator[ProcessGroup]:
    """Start the other processes of a training; in the block, this one is the first of the group that is yielded.

    None of the others is left when the block ends, however it does. Raises StageError if one of them was lost.

    Args:
        count: processes in all.
        inputs: base, tokens, custom_adapter.
        params: the `train` section.
        runtime: a `FittedRuntime`.
    """
    job = {
        "inputs": [str(path) for path in inputs],
        "params": params.model_dump_json(),
        "runtime": runtime.model_dump_json(),
    }
    launch = read_launch()
    if count == 1:
        yield ProcessGroup()
        return
    if launch is not None:
        share_threads(launch.local_size)
        with join_launched_group(launch, job) as (group, _):
            log.info("%d processes share each step", count)
            yield group
        return
    share_threads(count)
    group = ProcessGroup(0, count)
    children = ChildProcesses(job, count, group)
    group.lost = lambda: bool(children.lost)
    log.info("%d processes share each step", count)
    try:
        yield group
        children.say_farewell()
    except BaseException as error:
        children.explain(error)
        raise
    finally:
        children.end()


def share_threads(count: int) -> None:
    """Each process computes on its part of the cores."""
    import torch

    if os.environ.get("OMP_NUM_THREADS") == "1":
        torch.set_num_threads(1)  # torch may have been there before the variable
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // count))
