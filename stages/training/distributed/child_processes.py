"""The processes that the first one of a training has started on this machine, watched: if one ends otherwise than well, all end."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from stages.core.errors import StageError
from stages.core.files import scratch
from stages.training.distributed.process_group import GRACE, ProcessGroup
from stages.training.memory.gpu import visible_gpus
from stages.training.memory.out_of_memory import is_out_of_memory

log = logging.getLogger("retune")

LOOK_EVERY = 0.2
"""Seconds between two looks whether all are alive."""
FAREWELL = 30.0
"""Seconds that the others have to end when all is done."""
LAST_LINES = 12
"""Lines of a lost process that the error shows."""
AGREED = 3
"""Exit status of a process that stopped for what all of them have seen, such as a loss that is no number."""


class ChildProcesses:
    """The processes that the first one has started, watched by a thread of their own."""

    def __init__(self, job: Mapping[str, Any], count: int, group: ProcessGroup) -> None:
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
        if len(visible_gpus()) > 1 and os.environ.get("CUDA_VISIBLE_DEVICES"):
            environment["CUDA_VISIBLE_DEVICES"] = visible_gpus()[rank]
        whole = json.dumps({**job, "port": self.group.store.port, "parent": os.getpid()})
        with (self.folder / f"{rank}.log").open("wb") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "stages.training.worker", whole],
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
            print(f"train: {self.describe_lost()}", file=sys.stderr, flush=True)
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
            raise StageError(self.describe_lost()) from error

    def describe_lost(self) -> str:
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
