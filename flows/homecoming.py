"""What a run has made comes home: outputs into the project's folders, the stage's entry into its dvc.lock; whole, or not at all.

An output is written beside its place and takes it by a rename, under DVC's locks, with interrupts put off. What somebody has changed at home
since the run began is left as it is.
"""

import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.dvc_project import (
    StageFiles,
    note_hashes,
    open_project,
    read_entries,
    read_entry,
    read_output_states,
    write_entries,
    writing,
)
from flows.file_copies import clone, mark_path, remove_path
from flows.snapshot import Snapshot, StartingPoint, aside, incoming


def bring_home(snapshot: Snapshot, stage: str, *, refused: bool = False) -> str:
    """Bring the outputs of a stage home, and its entry in the lock file.

    Args:
        snapshot: where it ran.
        stage: its name.
        refused: the stage has ended with a refusal: its files count, and DVC has locked nothing.

    Returns:
        Why it was not done; empty if it was, or if there was nothing to do.
    """
    files, start = snapshot.stages[stage], snapshot.start[stage]
    entry = None if refused else read_entry(snapshot.root, files)
    outs = [out for out in files.outs if (snapshot.root / out).exists()]
    if not refused and entry == start.entry and start.as_locked:
        return ""
    try:
        for out in outs:
            remove_path(incoming(snapshot.home / out))
            copy_output(snapshot.root / out, incoming(snapshot.home / out), links=snapshot.links)
        with open_project(snapshot.home) as repo, writing(repo, outs):
            changed = find_change(snapshot.home, files, start, entry, repo)
            if changed:
                return changed
            with interrupts_put_off():
                for out in outs:
                    take_place(snapshot.home / out)
                entries = find_forgotten(snapshot, files.lock) | ({} if entry is None else {str(files.key): entry})
                write_entries(snapshot.home, files.lock, entries)
            note_hashes(repo, entry or {})
            snapshot.start[stage] = StartingPoint(
                read_entry(snapshot.home, files),
                {out: mark_path(snapshot.home / out) for out in files.outs},
                entry is not None,
            )
    except ValueError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or 'the project'} cannot be written ({error.strerror or error})"
    finally:
        for out in outs:
            remove_path(incoming(snapshot.home / out))
    return ""


def find_forgotten(snapshot: Snapshot, lock: str) -> dict[str, None]:
    """The entries of a lock file that a stage of the run has had DVC forget (the audit does that with false ones), and that home has as before."""
    here, home = (read_entries(root, lock) for root in (snapshot.root, snapshot.home))
    before = {
        files.key: snapshot.start[name].entry
        for name, files in snapshot.stages.items()
        if files.lock == lock and files.key
    }
    return {
        key: None for key, entry in before.items() if entry is not None and key not in here and home.get(key) == entry
    }


def find_change(home: Path, files: StageFiles, start: StartingPoint, entry: object, repo: Any) -> str:  # noqa: ANN401 - DVC has no types
    """What somebody has changed at home since the run began that this stage's results would overwrite; empty if nothing."""
    now = read_entry(home, files)
    if now not in (start.entry, entry):
        return f"{files.lock} has another entry for this stage than when the run began"
    moved = [out for out in files.outs if mark_path(home / out) != start.marks.get(out, ())]
    # brought back from the cache (`retune restore`) is no change
    if moved and not (now is not None and are_as_locked(repo, moved)):
        return f"{', '.join(moved)} was changed since the run began"
    return ""


def are_as_locked(repo: Any, outs: Iterable[str]) -> bool:  # noqa: ANN401 - DVC has no types
    """Whether outputs are what the lock file names. False also where dvc.yaml cannot be read just now."""
    from dvc.exceptions import DvcException

    try:
        states = read_output_states(repo)
    except DvcException:
        return False
    return all(out in states and states[out].as_locked for out in outs)


def copy_output(source: Path, target: Path, *, links: bool) -> None:
    """Copy a file or folder that a stage has written. `links`: as links to what it is a link to, where the project's DVC settings want such."""
    if not source.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_written(source, target, links=links)
        return
    for name, _, files in os.walk(source):
        there = target / Path(name).relative_to(source)
        there.mkdir(parents=True)
        for one in files:
            copy_written(Path(name, one), there / one, links=links)


def copy_written(source: Path, target: Path, *, links: bool) -> None:
    """Copy one file, writable where the copy is no link."""
    if links and source.is_symlink():
        target.symlink_to(source.readlink())
    elif links and source.stat().st_nlink > 1:
        target.hardlink_to(source)
    else:
        clone(source, target)
        executable = source.stat().st_mode & 0o111
        if executable:
            target.chmod(target.stat().st_mode | executable)


def take_place(path: Path) -> None:
    """Put the incoming output where the former one is."""
    remove_path(aside(path))
    if path.exists() or path.is_symlink():
        path.rename(aside(path))
    incoming(path).rename(path)
    remove_path(aside(path))


@contextmanager
def interrupts_put_off() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM come after the block: not between two renames."""
    if threading.current_thread() is not threading.main_thread():  # it gets no signals
        yield
        return
    came: list[int] = []
    before: Mapping[int, Any] = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)
