"""Signs of life: how the processes of a training that torchrun has started learn that one of them is lost, on whatever host."""

import logging
import os
import socket
import sys
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stages.core.errors import StageError
from stages.training.distributed.process_group import GRACE, PATIENCE, ProcessGroup
from stages.training.memory.out_of_memory import is_out_of_memory

if TYPE_CHECKING:
    from torch.distributed import Store

log = logging.getLogger("retune")

BEAT = 1.0
"""Seconds between two signs of life."""
SILENCE = 20.0
"""Seconds without a sign of life after which a process counts as lost."""
START = 300.0
"""Seconds until the first one: torch may come from a slow disk."""
FAREWELL = 30.0
"""Seconds that a process waits for the others' last word. torchrun ends all on a host as soon as one has failed: the first one, which
saves and says what was wrong, must be done by then."""
GOOD, BAD = "ended", "failed"
"""Last words."""


@dataclass(frozen=True)
class Launch:
    """What torchrun says of a process."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    host: str
    port: int
    agent_store: bool
    """Whether torchrun holds the store at this address, else process 0 does."""
    attempt: str
    """Of torchrun's restarts: what an earlier attempt left in the store is another's."""


def connect(launch: Launch) -> "Store":
    """The store of this attempt, that all processes share."""
    from torch.distributed import PrefixStore, TCPStore

    master = not launch.agent_store and launch.rank == 0
    store = TCPStore(launch.host, launch.port, None, is_master=master, wait_for_workers=False, timeout=PATIENCE)
    return PrefixStore(f"retune/{launch.attempt}", store)


class Heartbeat:
    """This process's signs of life in the store, and an eye on the others', in a thread with a connection of its own."""

    def __init__(self, launch: Launch, group: ProcessGroup) -> None:
        self.launch, self.group = launch, group
        self.store = connect(replace(launch, agent_store=True))
        self.seen: dict[int, tuple[str, float]] = dict.fromkeys(range(launch.size), ("", time.monotonic()))
        """{rank: its last sign, and when that was new}."""
        self.lost: str | None = None
        """Which process was lost, and how."""
        self.over = threading.Event()
        self.store.set(f"host/{launch.rank}", socket.gethostname())
        self.thread = threading.Thread(target=self.run, name="signs of life", daemon=True)
        self.thread.start()

    def run(self) -> None:
        """Until the block ends or another process is lost; then see that this one ends too."""
        count = 0
        while self.lost is None:
            try:
                self.store.set(f"heartbeat/{self.launch.rank}", str(count))
                self.look()
            except Exception as error:  # noqa: BLE001 - whatever the connection says
                self.lost = f"the connection to {self.launch.host}:{self.launch.port} is gone ({type(error).__name__})"
            count += 1
            if self.over.wait(BEAT):
                return
        self.group.leave()
        if not self.over.wait(GRACE):
            # it waits for a GPU or another process, which no exception ends
            print(f"train: {self.describe_lost()}", file=sys.stderr, flush=True)
            os._exit(1)

    def look(self) -> None:
        """Note the others' signs, and who is lost."""
        now = time.monotonic()
        for rank in set(self.seen) - {self.launch.rank}:
            sign, since = self.seen[rank]
            if sign == GOOD:
                continue
            key = f"heartbeat/{rank}"
            new = self.store.get(key).decode() if self.store.check([key]) else ""
            if new != sign:
                self.seen[rank] = (new, now)
            elif now - since > (SILENCE if sign else START):
                self.lost = f"process {rank} ({self.find_host(rank)}) has given no sign of life for {now - since:.0f} s"
            if new.startswith(BAD):
                self.lost = f"process {rank} ({self.find_host(rank)}) has stopped:{new.removeprefix(BAD)}"

    def find_host(self, rank: int) -> str:
        """Where a process runs."""
        key = f"host/{rank}"
        return self.store.get(key).decode() if self.store.check([key]) else "host not known"

    def describe_lost(self) -> str:
        """The error that a lost process is."""
        return (
            f"{self.lost}. Processes are counted from 0, there are {self.launch.size}. The training has stopped everywhere; run it again to go on "
            "from the last checkpoint"
        )

    def explain(self, error: BaseException) -> None:
        """Raise StageError if the error comes of a lost process; say to the others that this one fails."""
        own = isinstance(error, StageError) or is_out_of_memory(error) or not isinstance(error, Exception)
        if not own and is_connection_error(error):
            # what a connection sees at once the watch sees later
            self.lost = (
                self.lost or "the connection to another process is gone: it has ended (torchrun says how, on its host)"
            )
        foreign = self.lost is not None and not own
        self.say_last_word(f"{BAD} {self.lost if foreign else error}"[:2000])
        if foreign:
            raise StageError(self.describe_lost()) from error

    def say_last_word(self, word: str) -> None:
        """Say how this process ends, and wait a while until process 0 has as well, or it for the others."""
        self.over.set()
        self.thread.join()
        awaited = range(1, self.launch.size) if self.launch.rank == 0 else [0]
        until = time.monotonic() + FAREWELL
        try:
            self.store.set(f"heartbeat/{self.launch.rank}", word)
            while time.monotonic() < until and self.lost is None:
                signs = [self.store.get(f"heartbeat/{rank}").decode() for rank in awaited]
                if all(sign.startswith((GOOD, BAD)) for sign in signs):
                    break
                time.sleep(BEAT / 5)
            if self.launch.rank and word != GOOD:
                time.sleep(3 * BEAT)  # process 0 has its error still to print
        except Exception:  # noqa: BLE001 - the store went with another process
            log.debug("the store is gone")


def is_connection_error(error: BaseException) -> bool:
    """Whether processes lost one another. Gloo has no kind of error for it."""
    from torch.distributed import DistError

    return isinstance(error, (ConnectionError, DistError)) or (isinstance(error, RuntimeError) and "gloo" in str(error))
