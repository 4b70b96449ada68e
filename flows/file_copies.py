"""Copies of files and folders that share nothing with what they were copied from: of one state, cheap where the file system clones."""

import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

Mark = tuple[tuple[str, int, int, int], ...]
"""(relative path, size, time of change, inode) of every file: what moves when one of them is written, added or removed."""
TRIES = 50
"""How often a file is copied that is written meanwhile, a tenth of a second apart."""


def copy_file(source: Path, target: Path) -> None:
    """Copy a regular file with its times and mode; what is none (a socket, a dangling link) is left out.

    Raises ValueError if it is written all the time: a half of it would be in the copy.
    """
    for _ in range(TRIES):
        try:
            before = source.stat()
        except FileNotFoundError:
            return
        if not stat.S_ISREG(before.st_mode):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        clone(source, target)
        after = source.stat()
        if (before.st_size, before.st_mtime_ns, before.st_ino) == (after.st_size, after.st_mtime_ns, after.st_ino):
            shutil.copystat(source, target)
            return
        time.sleep(0.1)
    msg = f"{source} is being written: start the run when it is whole"
    raise ValueError(msg)


def clone(source: Path, target: Path) -> None:
    """The bytes of a file in another one: as a reflink, which takes no time and no space, where the file system has such."""
    from dvc_objects.fs.system import reflink

    target.unlink(missing_ok=True)
    try:
        reflink(source.as_posix(), target.as_posix())  # type: ignore[no-untyped-call]
    except OSError:
        shutil.copyfile(source, target)


def copy_path(source: Path, target: Path, leave_out: Callable[[Path], bool]) -> None:
    """Copy a file or a folder; links are followed, since what they lead to may be edited, too. Compiled Python is left out.

    Args:
        source: the file or folder.
        target: where the copy comes to; files that are there already stay.
        leave_out: of a path below `source`, whether it is left out.
    """
    if not source.is_dir():
        if not target.exists():
            copy_file(source, target)
        return
    for name, folders, files in os.walk(source, followlinks=True):
        folder = Path(name)
        folders[:] = [
            one
            for one in folders
            if one != "__pycache__" and not leads_up(folder / one) and not leave_out(folder / one)
        ]
        there = target / folder.relative_to(source)
        there.mkdir(parents=True, exist_ok=True)
        for one in files:
            if not leave_out(folder / one) and not (there / one).exists():
                copy_file(folder / one, there / one)


def leads_up(path: Path) -> bool:
    """Whether this is a link to a folder that it lies in: following it would never end."""
    return path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())


def size_of(path: Path) -> int:
    """Bytes of a file or of all files below a folder."""
    if not path.is_dir():
        return path.stat().st_size if path.is_file() else 0
    files = (Path(name, one) for name, _, found in os.walk(path) for one in found)
    return sum(file.stat().st_size for file in files if file.is_file())


def mark_path(path: Path) -> Mark:
    """What moves when a file, or one below a folder, is written, added or removed; empty if there is nothing."""
    files = [path] if not path.is_dir() else [Path(name, one) for name, _, files in os.walk(path) for one in files]
    marks = []
    for file in sorted(files):
        try:
            found = file.lstat()
        except FileNotFoundError:
            continue
        marks.append((file.relative_to(path).as_posix(), found.st_size, found.st_mtime_ns, found.st_ino))
    return tuple(marks)


def remove_path(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
