"""Several processes for one training on this machine: the stage's own is the first and starts the others, one for each GPU.

They end together. The others die with the first (Linux sends them SIGKILL); if one of them ends otherwise than well, the first
stops the rest and its error names it with the last lines that it said (`.retune/processes/N.log` has all of them).

    python -m stages.processes JSON     is how the first starts the others
"""

import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from stages.errors import StageError
from stages.files import scratch
from stages.gpu_memory import limit_allocator
from stages.group import Group
from stages.model import device
from stages.out_of_memory import is_out_of_memory
from stages.params import Params, Runtime

log = logging.getLogger("retune")

LOOK_EVERY = 0.2
"""Seconds between two looks whether all are alive."""
GRACE = 10.0
"""Seconds that the first process has for an error of its own when another is lost; a wait for a GPU may have no end."""
FAREWELL = 30.0
"""Seconds that the others have to end when all is done."""
LAST_LINES = 12
"""Lines of a lost process that the error shows."""
AGREED = 3
"""Exit status of a process that stopped for what all of them have seen, such as a loss that is no number."""


@cache
def gpus() -> tuple[str, ...]:
    """The GPUs that this process sees before it uses one, by the names that CUDA_VISIBLE_DEVICES takes."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(named.split(",")[:count]) if named else tuple(str(number) for number in range(count))


def process_count(runtime: Runtime) -> int:
    """`runtime.processes`; null: one for each GPU, one on the CPU.

    Raises StageError if GPUs are used and there are fewer, or under torchrun.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise StageError(
            "train starts its processes itself: run it without torchrun; runtime.processes says how many there are"
        )
    there = 0 if runtime.device == "cpu" else len(gpus())
    count = runtime.processes or there or 1
    if 0 < there < count:
        raise StageError(f"runtime.processes is {count}, but torch sees {there} GPUs here: each process needs its own")
    return count


@contextmanager
def own_gpu(runtime: Runtime) -> Iterator[int]:
    """In the block this process sees the first GPU alone, and yielded is how many processes shall train: see `process_count`.

    Must come before anything has used a GPU. CUDA reads the variable once, so that putting it back is for what this process becomes.
    """
    count, before = process_count(runtime), os.environ.get("CUDA_VISIBLE_DEVICES")
    several = runtime.device != "cpu" and len(gpus()) > 1
    if several:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus()[0]
    try:
        yield count
    finally:
        if several:
            del os.environ["CUDA_VISIBLE_DEVICES"]
            os.environ.update({} if before is None else {"CUDA_VISIBLE_DEVICES": before})


@contextmanager
def processes(count: int, inputs: Sequence[Path], params: Params, runtime: Runtime) -> Iterator[Group]:
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
    if count == 1:
        yield Group()
        return
    share_threads(count)
    group = Group(0, count)
    others = Others(job, count, group)
    group.lost = lambda: bool(others.lost)
    log.info("%d processes share each step", count)
    try:
        yield group
        others.say_farewell()
    except BaseException as error:
        others.explain(error)
        raise
    finally:
        others.end()


def share_threads(count: int) -> None:
    """Each process computes on its part of the cores."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // count))


class Others:
    """The processes that the first one has started, watched by a thread of their own."""

    def __init__(self, job: Mapping[str, Any], count: int, group: Group) -> None:
        self.group = group
        self.folder = scratch() / "processes"
        self.folder.mkdir(exist_ok=True)
        self.lost: dict[int, int] = {}
        """{rank: exit status} of those that ended otherwise than well."""
        self.over = threading.Event()
        self.children: dict[int, subprocess.Popen[bytes]] = {}
        try:
            for rank in range(1, count):
                self.children[rank] = self.start(rank, {**job, "rank": rank, "size": count})
        except BaseException:
            self.end()
            raise
        threading.Thread(target=self.watch, name="watch of the other processes", daemon=True).start()

    def start(self, rank: int, job: Mapping[str, Any]) -> "subprocess.Popen[bytes]":
        """One process, that says what it says into its file."""
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if len(gpus()) > 1 and os.environ.get("CUDA_VISIBLE_DEVICES"):
            environment["CUDA_VISIBLE_DEVICES"] = gpus()[rank]
        whole = json.dumps({**job, "port": self.group.store.port, "parent": os.getpid()})
        with (self.folder / f"{rank}.log").open("wb") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "stages.processes", whole],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    def watch(self) -> None:
        """In a thread: when one is lost, stop the others, and this process too if it cannot do so itself."""
        while not self.over.wait(LOOK_EVERY):
            for rank, child in self.children.items():
                if child.poll():
                    self.lost[rank] = child.returncode
            if self.lost:
                break
        if self.over.is_set():
            return
        if AGREED not in self.lost.values():
            self.kill()
            self.group.leave()
        if not self.over.wait(GRACE):
            # it waits for a GPU, which no exception ends
            self.kill()
            print(f"train: {self.told()}", file=sys.stderr, flush=True)
            os._exit(1)

    def explain(self, error: BaseException) -> None:
        """Raise StageError if the error comes of a lost process; not if all have seen what it says."""
        if not isinstance(error, Exception):
            return
        if not isinstance(error, StageError):
            self.over.wait(5 * LOOK_EVERY)  # what a connection sees at once the watch sees a little later
        statuses = set(self.lost.values())
        own = isinstance(error, StageError) or is_out_of_memory(error)
        if self.lost and not (own and statuses == {AGREED}):
            raise StageError(self.told()) from error

    def told(self) -> str:
        """Which process was lost, how, and its last lines."""
        rank, status = min(self.lost.items(), key=lambda item: (item[1] == AGREED, item[0]))
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        text = (self.folder / f"{rank}.log").read_text(encoding="utf-8", errors="replace")
        lines = "\n  ".join(text.splitlines()[-LAST_LINES:])
        return (
            f"process {rank} of {len(self.children) + 1} (counted from 0) {how}, so the training has stopped; run it again to go on "
            f"from the last checkpoint. It said last:\n  {lines}"
        )

    def say_farewell(self) -> None:
        """Let the others end by themselves: they are done as well."""
        for child in self.children.values():
            try:
                child.wait(FAREWELL)
            except subprocess.TimeoutExpired:
                log.warning("a process was still there %.0f s after the end of the training", FAREWELL)

    def kill(self) -> None:
        """End all that are still there."""
        for child in self.children.values():
            if child.poll() is None:
                child.kill()

    def end(self) -> None:
        """None is left afterwards."""
        self.over.set()
        self.kill()
        for child in self.children.values():
            child.wait()


def follow(parent: int) -> None:
    """Die when the process that started this one does, at once: it may be waiting for a GPU."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def main() -> None:
    """One of the others: take part in what the command line says, and end."""
    job = json.loads(sys.argv[1])
    follow(job["parent"])
    from stages.execution_plan import FittedRuntime
    from stages.train import TrainParams, take_part

    runtime = FittedRuntime.model_validate_json(job["runtime"]).model_copy(update={"report_to": "none"})
    logging.basicConfig(level=runtime.log_level.upper(), format="train: %(message)s", stream=sys.stdout)
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    base, tokens, first = map(Path, job["inputs"])

    def join() -> Group:
        # each process writes its own: two would write one file at once
        os.environ["UNSLOTH_COMPILE_LOCATION"] += f"_{job['rank']}"
        share_threads(job["size"])
        if device(runtime) == "cuda":
            limit_allocator(runtime.memory_limit_gb)
        return Group(job["rank"], job["size"], job["port"])

    try:
        take_part(base, tokens, first, TrainParams.model_validate_json(job["params"]), runtime, join)
    except Exception as error:
        if not (isinstance(error, StageError) or is_out_of_memory(error)):
            raise
        print(error, flush=True)
        sys.exit(AGREED)


if __name__ == "__main__":
    main()
