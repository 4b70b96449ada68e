"""One run of a project at a time."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def hold_run_lock(home: Path, say: Callable[[str], None]) -> Iterator[int]:
    """Hold the lock of runs of the project at `home`; while another run holds it, wait, and say so.

    Yields the lock's file descriptor. Whoever has inherited it holds the lock, too: a run that was killed is over when its stage has ended
    (`flows.process`), and the system lets go of it with the last of them.
    """
    path = home / ".retune" / "run.lock"
    path.parent.mkdir(exist_ok=True)
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not try_lock(lock):
            holder = os.pread(lock, 100, 0).decode(errors="replace").strip()
            say(f"another run is at work here ({holder or 'just begun'}): waiting until it has ended")
            while not try_lock(lock):
                time.sleep(0.2)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"process {os.getpid()}\n".encode(), 0)
        yield lock
    finally:
        os.close(lock)


def try_lock(lock: int) -> bool:
    """Take the lock if nobody holds it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
