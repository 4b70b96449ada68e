"""Many files' md5 and sha256 in one reading each, by as many threads as there are cores.

hashlib lets other threads run while it digests. Of a large file the two digests are made side by side, so that one file that is larger
than all others together does not leave a core idle. md5 is what DVC's lock and cache name bytes by, sha256 what the records do.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.show.progress import AdvanceWithNote, progress

PIECE = 1 << 18
"""Bytes that are read at a time: they stay in a core's cache for the second digest."""
LARGE = 1 << 28
"""Bytes from which on a file's two digests are made side by side."""
LOOK_EVERY = 0.2
"""Seconds between two looks at how far it is."""
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class FileDigests:
    """A file's bytes by name."""

    md5: str
    sha256: str
    """Empty where it was not asked for."""
    size: int
    """Bytes that were read."""


@dataclass
class Counter:
    """Bytes that are done; each thread adds to one of its own, so that no lock is needed."""

    done: int = 0


def hash_files(
    files: Iterable[Path], doing: str, *, sha256: bool = True
) -> tuple[dict[Path, FileDigests], dict[Path, str]]:
    """Hash files, the large ones first. Gives ({file: digests}, {file: why it cannot be read}).

    Args:
        files: what is to be read; hard links of one file are read once.
        doing: what the progress says, such as "hashing data".
        sha256: whether that is asked for beside md5.
    """
    broken: dict[Path, str] = {}
    same: dict[tuple[int, int], list[Path]] = {}
    sizes: dict[tuple[int, int], int] = {}
    for file in dict.fromkeys(files):
        try:
            stat = file.stat()
        except OSError as error:
            broken[file] = error.strerror or "cannot be read"
            continue
        same.setdefault((stat.st_dev, stat.st_ino), []).append(file)
        sizes[stat.st_dev, stat.st_ino] = stat.st_size
    found: dict[Path, FileDigests] = {}
    total = sum(sizes.values())
    with (
        ThreadPoolExecutor(os.cpu_count() or 1) as pool,
        progress(doing, total // MEGABYTE, "MB") as advance,
    ):
        counters = {key: Counter() for key in sizes}
        waiting = {
            pool.submit(hash_file, same[key][0], counters[key], sha256=sha256): same[key]
            for key in sorted(sizes, key=lambda key: -sizes[key])
        }
        told = 0
        while waiting:
            ready, _ = wait(waiting, LOOK_EVERY, FIRST_COMPLETED)
            for future in ready:
                paths = waiting.pop(future)
                try:
                    found |= dict.fromkeys(paths, future.result())
                except OSError as error:
                    broken |= dict.fromkeys(paths, error.strerror or "cannot be read")
            told = tell(counters, told, advance)
    return found, broken


def tell(counters: Mapping[tuple[int, int], Counter], told: int, advance: AdvanceWithNote) -> int:
    """Tell the progress what is new, in megabytes; gives what has been told."""
    now = sum(counter.done for counter in counters.values()) // MEGABYTE
    advance(now - told)
    return now


def hash_file(path: Path, counter: Counter, *, sha256: bool = True) -> FileDigests:
    """A file's digests. Raises OSError."""
    names = ["md5", "sha256"] if sha256 else ["md5"]
    digests = [hashlib.new(name, usedforsecurity=False) for name in names]
    with path.open("rb", buffering=0) as file:
        apart = sha256 and os.fstat(file.fileno()).st_size >= LARGE
        read = read_beside if apart else read_through
        read(file, digests, counter)
    return FileDigests(digests[0].hexdigest(), digests[1].hexdigest() if sha256 else "", counter.done)


def read_through(file: Any, digests: list[Any], counter: Counter) -> None:  # noqa: ANN401 - a raw file; hashlib ships no type
    """Feed all digests with each piece of a file."""
    buffer = memoryview(bytearray(PIECE))
    while size := file.readinto(buffer):
        for digest in digests:
            digest.update(buffer[:size])
        counter.done += size


def read_beside(file: Any, digests: list[Any], counter: Counter) -> None:  # noqa: ANN401 - as above
    """The same with the second digest in a thread of its own, one piece behind at most."""
    buffers = [memoryview(bytearray(4 * PIECE)) for _ in range(2)]
    first, second = digests
    with ThreadPoolExecutor(1) as helper:
        behind = None
        turn = 0
        while size := file.readinto(buffers[turn]):
            piece = buffers[turn][:size]
            if behind is not None:
                behind.result()
            behind = helper.submit(second.update, piece)
            first.update(piece)
            counter.done += size
            turn = 1 - turn
        if behind is not None:
            behind.result()
