"""Checkpoints of a training in scratch: whole ones only, of the very same inputs only.

`.retune/checkpoints/FINGERPRINT/step-N/` holds `state.pt` and `state.sha256`. They are written under another name, brought to the
disk and renamed, so a crash leaves a whole checkpoint or none; the digest finds one that was damaged all the same, and the one
before is taken. Never a DVC output: outputs are removed before a stage runs.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from stages.core.errors import StageError
from stages.core.files import sha256_file

if TYPE_CHECKING:
    from stages.training.distributed.process_group import ProcessGroup

log = logging.getLogger("retune")

KEPT = 2
"""Checkpoints of a training that are kept: the last, and the one before should the last be damaged."""
OTHERS_KEPT = 2
"""Interrupted trainings with other inputs whose checkpoints are kept: going back to their params goes on with them."""

PIECE = 64 * 2**20
"""Bytes of a checkpoint that are sent to another host at a time."""

STATE, DIGEST = "state.pt", "state.sha256"


class Checkpoints:
    """The checkpoints of one training.

    Args:
        folder: `.retune/checkpoints`.
        inputs: all that shapes the result, as JSON values: a checkpoint is only for the same ones.
    """

    def __init__(self, folder: Path, inputs: Mapping[str, Any]) -> None:
        text = json.dumps(inputs, sort_keys=True, allow_nan=False)
        self.folder = folder / hashlib.sha256(text.encode()).hexdigest()[:24]

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write the state after a step; then all but the last `KEPT` go."""
        import torch

        final = self.folder / f"step-{step:08d}"
        partial = final.with_name(f".{final.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        torch.save(dict(state), partial / STATE)
        (partial / DIGEST).write_text(sha256_file(partial / STATE) + "\n", encoding="ascii")
        for path in (partial / STATE, partial / DIGEST, partial):
            flush_to_disk(path)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        flush_to_disk(self.folder)
        for old in self.folders()[:-KEPT]:
            shutil.rmtree(old)

    def folders(self) -> list[Path]:
        """The folders of checkpoints, the earliest first, whole or not."""
        return sorted(self.folder.glob("step-*"))

    def find_latest(self) -> Path | None:
        """The file of the last whole checkpoint's state; None where there is none."""
        for path in reversed(self.folders()):
            digest = path / DIGEST
            if not (
                digest.exists()
                and (path / STATE).exists()
                and digest.read_text(encoding="ascii").strip() == sha256_file(path / STATE)
            ):
                log.warning("the checkpoint %s is not whole: it is not used", path.name)
                continue
            return path / STATE
        return None

    def remove(self) -> None:
        """The training is done: nothing will be resumed."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def tidy(self) -> None:
        """Remove what a crash left half-written, and all but the newest checkpoints of other trainings."""
        for partial in self.folder.glob(".*.partial"):
            shutil.rmtree(partial)
        if not self.folder.parent.exists():
            return
        others = [path for path in self.folder.parent.iterdir() if path.is_dir() and path != self.folder]
        for path in sorted(others, key=lambda path: path.stat().st_mtime)[:-OTHERS_KEPT]:
            shutil.rmtree(path)


@contextmanager
def bring_checkpoint(checkpoints: Checkpoints, group: "ProcessGroup") -> Iterator[None]:
    """In the block the first process's last checkpoint lies where the others look for it, which may be on other hosts.

    Args:
        checkpoints: in a folder that is relative to the working folder.
        group: joined.
    """
    latest = checkpoints.find_latest() if group.rank == 0 else None
    own = (latest, sha256_file(latest), latest.stat().st_size) if latest is not None else None
    first = group.gather(own)[0]
    if first is None:
        yield
        return
    file, digest, size = first
    missing = not file.exists() or sha256_file(file) != digest
    if any(group.gather(missing)):
        send_first(file, size, group, write=missing)
    try:
        yield
    finally:
        if missing:
            shutil.rmtree(file.parent, ignore_errors=True)


def send_first(file: Path, size: int, group: "ProcessGroup", *, write: bool) -> None:
    """Send the first process's file of `size` bytes to all; those that are to `write` it do."""
    import torch

    partial = file.with_name(f".{group.rank}.partial")
    if write:
        file.parent.mkdir(parents=True, exist_ok=True)
    opened = file.open("rb") if group.rank == 0 else partial.open("wb") if write else nullcontext()
    with opened as handle:
        for start in range(0, size, PIECE):
            length = min(PIECE, size - start)
            read = bytearray(handle.read(length) if group.rank == 0 and handle else length)
            piece = torch.frombuffer(read, dtype=torch.uint8)
            group.take_first(piece)
            if write and handle:
                handle.write(piece.numpy().tobytes())
    if write:
        partial.replace(file)


def read_state(file: Path) -> dict[str, Any]:
    """The state that a checkpoint's file holds."""
    import torch

    # tensors and plain values alone: a file in scratch is no reason to run what it says
    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return state


def flush_to_disk(path: Path) -> None:
    """Wait until a file's or folder's content is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def hold_training_lock(folder: Path) -> Iterator[None]:
    """Hold the project's training lock. Raises StageError that says who has it; it goes with its process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "train.lock").open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise StageError(
                f"another training is under way in this project (process {holder}): wait for it, or end it with `kill {holder}`"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


@contextmanager
def note_stop() -> Iterator[Callable[[], str | None]]:
    """Note SIGTERM and Ctrl-C in place of ending at once: what is yielded says the signal's name, once one came. A second one ends."""
    seen: list[str] = []

    def note(number: int, _: FrameType | None) -> None:
        seen.append(signal.Signals(number).name)
        signal.signal(number, before[signal.Signals(number)])
        log.info("%s: the step under way is finished and saved, then the training stops", seen[-1])

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: seen[-1] if seen else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
