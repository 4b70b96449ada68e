"""Deps and outs of dvc.lock with the stage that they are of: text that somebody may have edited, so each is looked at before it is believed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from stages.dvc_lock.hashes import FOLDER
from stages.dvc_lock.lock import LockedStage

HEX = frozenset("0123456789abcdef")
MD5 = 32
"""Digits of an md5."""


@dataclass(frozen=True)
class LockedPath:
    """A dep or an out of a stage, as dvc.lock has it."""

    stage: str
    path: str
    md5: str
    """As DVC writes it: of a folder, with `.dir`."""
    size: int | None
    """Bytes, where they are said."""


def list_deps(entry: LockedStage) -> list[LockedPath]:
    """The deps of a stage that can be looked at."""
    return [one for one in list_paths(entry, entry.deps) if not find_path_problem(one)]


def list_outs(entry: LockedStage) -> list[LockedPath]:
    """The same of its outs."""
    return [one for one in list_paths(entry, entry.outs) if not find_path_problem(one)]


def list_paths(entry: LockedStage, hashes: Mapping[str, str]) -> Iterator[LockedPath]:
    """Deps or outs as dvc.lock has them."""
    return (LockedPath(entry.name, path, digest, entry.sizes.get(path)) for path, digest in hashes.items())


def find_path_problem(one: LockedPath) -> str:
    """Why a path cannot be looked at; empty if it can."""
    plain, path = one.md5.removesuffix(FOLDER), PurePosixPath(one.path)
    if len(plain) != MD5 or not set(plain) <= HEX:
        return f"{one.path} has no md5"
    outside = path.is_absolute() or ".." in path.parts or path == PurePosixPath()
    return f"{one.path} lies outside of the project" if outside else ""
