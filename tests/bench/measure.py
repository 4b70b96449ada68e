"""A command, run and measured: wall and CPU seconds, and the peak memory of its process and of each process below it."""

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.02


@dataclass(frozen=True)
class Measured:
    """What one run of a command cost."""

    wall: float
    """Seconds from before the start of the process to after its end: interpreter, imports and all."""
    cpu: float
    """User and system seconds of the process and of its ended children."""
    peak_mib: int
    """Most resident memory of the process itself (VmHWM, looked at every SAMPLE_SECONDS). Not getrusage's: that one begins
    with the memory of the process that started it."""
    workers_mib: list[int]
    """The same of each process below it, largest first."""
    together_mib: int
    """Most memory of all of them at one moment, pages that they share counted once (proportional set size)."""
    output: str
    """stdout."""


class CommandError(Exception):
    """The command failed; the text is the end of what it said."""


def measured(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Measured:
    """Run a command to its end. Raises CommandError if it exits with anything but 0."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=dict(environment), stdout=out, stderr=errors)
        watch = Watch(process.pid)
        watch.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        watch.ended.set()
        watch.join()
        out.seek(0)
        errors.seek(0)
        said = out.read()
        if process.returncode:
            raise CommandError(
                f"{' '.join(command)} exited with {process.returncode}\n{said[-1000:]}{errors.read()[-3000:]}"
            )
    return Measured(
        wall=wall,
        cpu=usage.ru_utime + usage.ru_stime,
        peak_mib=watch.peaks.pop(process.pid, 0),
        workers_mib=sorted(watch.peaks.values(), reverse=True),
        together_mib=watch.together,
        output=said,
    )


class Watch(threading.Thread):
    """Looks at a process and those below it until it has ended."""

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self.root = root
        self.ended = threading.Event()
        self.peaks: dict[int, int] = {}
        self.together = 0

    def run(self) -> None:
        looked = 0
        while not self.ended.wait(SAMPLE_SECONDS):
            processes = [self.root, *descendants(self.root)]
            for process in processes:
                self.peaks[process] = max(self.peaks.get(process, 0), high_water_mib(process))
            looked += 1
            if looked % 25 == 1:  # the kernel walks all pages for this one
                self.together = max(self.together, sum(shared_once_mib(process) for process in processes))


def descendants(root: int) -> list[int]:
    """The processes below one, not itself."""
    found, waiting = [], [root]
    while waiting:
        parent = waiting.pop()
        try:
            threads = list(Path(f"/proc/{parent}/task").iterdir())
        except OSError:
            continue
        for thread in threads:
            try:
                children = (thread / "children").read_text()
            except OSError:
                continue
            numbers = [int(number) for number in children.split()]
            found += numbers
            waiting += numbers
    return found


def high_water_mib(process: int) -> int:
    """VmHWM; 0 for a process that has ended."""
    return kib_of(f"/proc/{process}/status", "VmHWM:") // 1024


def shared_once_mib(process: int) -> int:
    """The proportional set size; 0 for a process that has ended."""
    return kib_of(f"/proc/{process}/smaps_rollup", "Pss:") // 1024


def kib_of(path: str, name: str) -> int:
    """The figure of a line `NAME 123 kB`."""
    try:
        for line in Path(path).read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    except OSError:
        pass
    return 0
