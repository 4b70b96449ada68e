"""One stage as a child process: `dvc repro` of that stage alone, its lines live, and nothing left of it at the end.

SIGTERM to DVC orphans the training it has started, so the child gets a process group of its own, which is ended as a whole:
by `finally` when this process goes on or is cancelled, and by a small watcher when this process is killed outright.
The watcher waits at a pipe that only this process holds open: a closed pipe is the one sign of death that no kind of
killing can suppress, on any Unix (PR_SET_PDEATHSIG follows the thread that forked, knows one process only, and is Linux alone).
"""

import contextlib
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

# seconds between SIGTERM (a trainer may save, torchrun ends its workers) and SIGKILL
PATIENCE = 10
# seconds between two looks at a progress bar that goes on within one line
BAR_EVERY = 10.0
# a line ends the watch; the end of the pipe means that the flow has died
WATCH = f"""read -r _ && exit
kill -s TERM -- "-$0"
left={PATIENCE}
while [ $left -gt 0 ] && kill -s 0 -- "-$0"; do sleep 1; left=$((left - 1)); done
kill -s KILL -- "-$0\""""
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# what DVC says after every stage and nobody reads in a log
CHATTER = (
    "Data and pipelines are up to date",
    "Updating lock file",
    "Use `dvc push`",
    "To track the changes with git",
    "To enable auto staging",
    "git add ",
    "dvc config core.autostage",
)


@dataclass(frozen=True)
class StageOutcome:
    """How a stage ended. `message` is empty unless it failed: then it is the stage's own words, else DVC's."""

    state: Literal["Ran", "Cached", "Failed"]
    message: str = ""


def dvc_command(*arguments: str) -> list[str]:
    """DVC of this environment. `-P`: the project's folder is not searched for modules, so DVC imports nothing of ours."""
    return [sys.executable, "-P", "-m", "dvc", *arguments]


def dvc_environment() -> dict[str, str]:
    """The environment of a DVC call: its stages find this environment's `python`, even if nobody has activated it."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    # with PYTHONSAFEPATH `python -m stages.X` would not look into the folder it runs in, but import what was installed: another folder's code
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    return {**kept, "PATH": path, "PYTHONUNBUFFERED": "1", "DVC_NO_ANALYTICS": "1"}


def repro(root: Path, stage: str, say: Callable[[str], None], held: tuple[int, ...] = ()) -> StageOutcome:
    """Bring one stage of the project at `root` up to date, no other; every line that it or DVC writes goes to `say` at once.

    `held`: file descriptors that stay open until nothing of the stage is left, even if this process is killed.
    """
    said: list[str] = []
    errors: deque[str] = deque(maxlen=500)
    # DVC takes its lock again when the command has ended, with 3 s of patience: hours of training would be lost to a `dvc status`
    command = dvc_command("--wait-for-lock", "repro", "--single-item", stage)
    with process_group(command, root, dvc_environment(), held) as process:
        for is_error, line in live_lines(process):
            if is_error:
                errors.append(line)
            elif line.startswith(("Stage '", "Running stage '")):
                said.append(line)
            if line.strip() and not line.strip().startswith(CHATTER):
                say(line.rstrip())
        code = process.wait()
    if code != 0:
        return StageOutcome("Failed", failure_message(stage, list(errors), code))
    return StageOutcome("Cached" if was_cached(stage, said) else "Ran")


def was_cached(stage: str, said: list[str]) -> bool:
    """Whether DVC has said that it did not run the stage.

    DVC's exit code is 0 either way, and an unchanged dvc.lock is no sign either: a stage that ran and gave the same bytes leaves it
    as it was. So its words decide, and only positive ones: what they do not say counts as Ran. What a stage prints cannot forge
    Cached: a stage that prints has run, and then DVC has said `Running stage` before it. A test with the real DVC guards the words.
    """
    if f"Running stage '{stage}':" in said:
        return False
    kept = (
        f"Stage '{stage}' didn't change, skipping",
        f"Stage '{stage}' is cached - skipping run, checking out outputs",
    )
    return any(line in kept for line in said)


def failure_message(stage: str, errors: list[str], code: int) -> str:
    """The reason out of what was written to stderr.

    That is the text of the StageError (`stages.core.runner.run` writes it as `STAGE: text`, which may have several lines), else the last
    line of a traceback, else what DVC said.
    """
    ends = [number for number, line in enumerate(errors) if line.startswith("ERROR: ")]
    own, dvc = (errors[: ends[-1]], errors[ends[-1]]) if ends else (errors, f"ended with exit code {code}")
    own = [line.rstrip() for line in own if line.strip()]
    starts = [number for number, line in enumerate(own) if line.startswith(f"{stage}: ")]
    traces = [number for number, line in enumerate(own) if line.startswith("Traceback (most recent call last)")]
    if starts and (not traces or traces[-1] < starts[-1]):
        return "\n".join(own[starts[-1] :]).removeprefix(f"{stage}: ")
    if traces:
        return own[-1]
    message = dvc.removeprefix("ERROR: ")
    if message.endswith(("exited with -9", "exited with 137")):
        message += " (killed: by hand, or because the memory was full)"
    return message


@contextlib.contextmanager
def process_group(
    command: list[str], directory: Path, environment: Mapping[str, str], held: tuple[int, ...] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """A child with a process group of its own, of which nothing is left afterwards, however this process ends; see `repro` for `held`."""
    read_end, write_end = os.pipe()
    process = watcher = None
    try:
        process = subprocess.Popen(
            command, cwd=directory, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        watcher = subprocess.Popen(
            ["/bin/sh", "-c", WATCH, str(process.pid)], stdin=read_end,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, pass_fds=held,
        )  # fmt: skip
        yield process
    finally:
        if process is not None:
            end_group(process)
        os.close(read_end)
        with contextlib.suppress(BrokenPipeError):
            os.write(write_end, b"done\n")
        os.close(write_end)
        if watcher is not None:
            watcher.wait()


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End every process of the child's group: politely, then surely."""
    for number, seconds in ((signal.SIGTERM, PATIENCE), (signal.SIGKILL, PATIENCE)):
        deadline = time.monotonic() + seconds
        sent: int = number
        while time.monotonic() < deadline:
            process.poll()  # a dead leader stays in its group until it is asked after
            try:
                os.killpg(process.pid, sent)
            except (ProcessLookupError, PermissionError):  # macOS answers PermissionError for a group of the dead
                process.wait()
                return
            sent = 0
            time.sleep(0.05)


def live_lines(process: subprocess.Popen[bytes]) -> Iterator[tuple[bool, str]]:
    """(whether it is from stderr, line) as they come, until the child has ended and said all."""
    with selectors.DefaultSelector() as selector:
        for stream, is_error in ((process.stdout, False), (process.stderr, True)):
            selector.register(stream_of(stream), selectors.EVENT_READ, (is_error, LiveLines()))
        while selector.get_map():
            ready = selector.select(timeout=0.5)
            if not ready and process.poll() is not None:
                break  # something that the stage left behind holds the pipe: it does not hold us
            for key, _ in ready:
                is_error, lines = key.data
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    selector.unregister(key.fileobj)
                for line in lines.feed(chunk):
                    yield is_error, line


def stream_of(stream: IO[bytes] | None) -> IO[bytes]:
    """The pipe, for the type checker: Popen was asked for one."""
    if stream is None:
        msg = "the child was started without pipes"
        raise TypeError(msg)
    return stream


class LiveLines:
    """Bytes to lines. Of a progress bar, which overwrites its line, one state in ten seconds and the last one are kept."""

    def __init__(self) -> None:
        """Start with nothing read."""
        self.rest = b""
        self.shown = time.monotonic()

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that `chunk` completes; an empty chunk is the end and gives what is left."""
        *whole, self.rest = (self.rest + chunk).split(b"\n")
        if not chunk:
            whole, self.rest = [*whole, self.rest] if self.rest else whole, b""
        if b"\r" in self.rest:
            states, _, newest = self.rest.rpartition(b"\r")
            if time.monotonic() - self.shown >= BAR_EVERY and last_state(states):
                self.shown = time.monotonic()
                whole.append(states)
                states = b""
            self.rest = states.rpartition(b"\r")[2] + b"\r" + newest
        return [ESCAPES.sub("", last_state(line).decode(errors="replace")) for line in whole]


def last_state(line: bytes) -> bytes:
    """What a terminal shows of a line in the end: the text after the last carriage return that has any after it."""
    return line.rstrip(b"\r").rpartition(b"\r")[2]
