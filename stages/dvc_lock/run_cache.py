"""False entries taken out of DVC's memory: out of its run cache, from which it would hand the outputs out again, and out of dvc.lock.

The run cache is `runs/` in the folder of DVC's cache (`dvc cache dir`): `runs/KEY[:2]/KEY/VALUE`, where KEY is a hash of a stage's command,
deps, params and the paths of its outputs, and each VALUE is a file in the form of a stage of dvc.lock. DVC hands out the newest of a KEY.
"""

import fcntl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from stages.core.errors import StageError
from stages.dvc_lock.hashes import object_path
from stages.dvc_lock.lock import LOCK, LockedStage, load_yaml
from stages.dvc_lock.records import LockDifference, compare_entry, find_record_path, parse_record, parse_run

PATIENCE = 10.0
"""Seconds that another DVC command is waited for."""


@dataclass(frozen=True)
class CachedRun:
    """An entry of the run cache."""

    file: Path
    entry: LockedStage

    def is_false(self, store: Path) -> bool:
        """Whether it says other params or another command than the record that it hands out."""
        return bool(self.differences(store))

    def differences(self, store: Path) -> list[LockDifference]:
        """In what it differs from the record that it hands out; nothing where the cache has that record no more: then DVC hands nothing out."""
        path = find_record_path(self.entry)
        digest = self.entry.outs.get(path, "") if path else ""
        if path is None or not digest:
            return []
        try:
            record = parse_record(path, object_path(store, digest).read_bytes())
        except (OSError, StageError):
            return []
        return list(compare_entry(record, self.entry))


def find_store(root: Path) -> Path:
    """The folder of DVC's cache, by DVC's own word. Raises StageError with what DVC says."""
    command = [sys.executable, "-P", "-m", "dvc", "cache", "dir"]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise StageError(f"dvc cache dir: {result.stderr.strip() or result.returncode}")
    return root / result.stdout.strip().splitlines()[-1]


def read_runs(store: Path) -> Iterator[CachedRun]:
    """Every entry of the run cache in a cache's folder that can be understood; DVC throws away the others when it meets them."""
    for file in sorted((store / "runs").glob("*/*/*")):
        try:
            yield CachedRun(file, parse_run(file.name, load_yaml(file.name, file.read_text(encoding="utf-8"))))
        except (OSError, UnicodeDecodeError, StageError):
            continue


def find_false_runs(store: Path) -> Iterator[CachedRun]:
    """The entries of the run cache that say other params, or another command, than the record that they hand out."""
    return (run for run in read_runs(store) if run.is_false(store))


def evict(root: Path, entries: Mapping[str, LockedStage]) -> list[Path]:
    """Have DVC forget runs: the false entries of these stages go out of dvc.lock and of the run cache, so that `dvc repro` makes them again.

    Args:
        root: the project's folder.
        entries: {stage: its entry in dvc.lock, which is false}.

    Gives the files that were taken out of the run cache. Raises StageError if DVC's lock cannot be had, or a file cannot be written.
    """
    store = find_store(root)
    gone = []
    try:
        for run in list(read_runs(store)):
            false = entries.get(run.entry.name)
            if false is not None and (is_same_run(run.entry, false) or run.is_false(store)):
                run.file.unlink()
                gone.append(run.file)
                if not any(run.file.parent.iterdir()):
                    run.file.parent.rmdir()  # DVC takes the newest of what a folder holds, and fails on an empty one
        forget_stages(root, set(entries))
    except OSError as error:
        raise StageError(f"{error.filename or LOCK} cannot be changed: {error.strerror}") from error
    return gone


def is_same_run(run: LockedStage, entry: LockedStage) -> bool:
    """Whether an entry of the run cache notes down the very run that one of dvc.lock does."""
    return (run.cmd, run.params, run.deps, run.outs) == (entry.cmd, entry.params, entry.deps, entry.outs)


def forget_stages(root: Path, stages: set[str]) -> None:
    """Take stages out of dvc.lock, which stays as it is otherwise."""
    path = root / LOCK
    yaml = YAML()
    yaml.default_flow_style = False  # as DVC writes it
    with hold_dvc_lock(root):
        values = yaml.load(path.read_text(encoding="utf-8"))
        for stage in stages & values["stages"].keys():
            del values["stages"][stage]
        temporary = path.with_name(f".{path.name}.partial")
        with temporary.open("w", encoding="utf-8") as file:
            yaml.dump(values, file)
        temporary.replace(path)


@contextmanager
def hold_dvc_lock(root: Path) -> Iterator[None]:
    """Hold the lock with which DVC's commands keep each other from dvc.lock; DVC lets go of it while a stage's command runs."""
    folder = root / ".dvc" / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + PATIENCE
    with (folder / "lock").open("a+", encoding="utf-8") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise StageError(f"another DVC command is at work here, so {LOCK} was left as it is") from None
                time.sleep(0.1)
        yield
