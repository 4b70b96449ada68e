"""All files that dvc.lock names, hashed, and the records among them: what every comparison of `verify` looks at."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from retune.dvc_files import read_cached_listing
from retune.verify.digests import FileDigests, hash_files
from retune.verify.locked import LockedPath, list_deps, list_outs
from stages.dvc_lock.hashes import FOLDER, digest_listing, object_path, read_ignored
from stages.dvc_lock.lock import LockedStage


@dataclass(frozen=True)
class Seen:
    """What lies in the project, by name and hash."""

    root: Path
    store: Path
    """DVC's cache."""
    locked: Mapping[str, LockedStage]
    files: Mapping[str, FileDigests]
    """{path below the project: digests}."""
    broken: Mapping[str, str]
    """{path below the project: why it cannot be read}."""
    folders: frozenset[str]
    """Paths of dvc.lock that are folders here."""
    records: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """{stage: its record}, of those that are as a record is written."""

    @cached_property
    def names(self) -> list[str]:
        """The files, sorted."""
        return sorted(self.files)

    def below(self, path: str) -> dict[str, FileDigests]:
        """{path below the project: digests} of a folder's files, or of the file itself."""
        if path not in self.folders:
            return {path: self.files[path]} if path in self.files else {}
        found, at = {}, bisect_left(self.names, f"{path}/")
        while at < len(self.names) and self.names[at].startswith(f"{path}/"):
            found[self.names[at]] = self.files[self.names[at]]
            at += 1
        return found

    def has_unread(self, path: str) -> bool:
        """Whether some of a path cannot be read."""
        return any(name == path or name.startswith(f"{path}/") for name in self.broken)

    def digest(self, path: str) -> str | None:
        """DVC's hash of a path as it lies there; None if nothing does, or some of it cannot be read."""
        there = self.below(path)
        if self.has_unread(path):
            return None
        if path in self.folders:
            return digest_listing(path, {name: one.md5 for name, one in there.items()})
        return there[path].md5 if there else None

    def known_listing(self, out: LockedPath) -> dict[str, str] | None:
        """{path below the project: md5} of what a stage wrote, as far as dvc.lock and the cache tell."""
        if not out.md5.endswith(FOLDER):
            return {out.path: out.md5}
        try:
            return read_cached_listing(self.store, out.path, out.md5)
        except (ValueError, TypeError, KeyError, OSError):
            return None

    def is_kept(self, digest: str) -> bool:
        """Whether the cache has an object of that name."""
        return object_path(self.store, digest).is_file()

    @cached_property
    def owners(self) -> dict[str, LockedPath]:
        """{path: the out of dvc.lock}."""
        return {out.path: out for entry in self.locked.values() for out in list_outs(entry)}

    def recorded(self, path: str) -> dict[str, str] | None:
        """{path below the project: sha256} of an output by the record of its stage; None where no record tells."""
        for record in self.records.values():
            for output in record["outputs"].values():
                if output["path"] == path:
                    single = path not in self.folders and list(output["files"]) == [Path(path).name]
                    return {path if single else f"{path}/{name}": sha256 for name, sha256 in output["files"].items()}
        return None


def hash_project(
    root: Path, store: Path, locked: Mapping[str, LockedStage], paths: Iterable[str] | None = None
) -> Seen:
    """Hash what dvc.lock names, deps and outs, or no more than some paths of it."""
    wanted = sorted(
        set(paths)
        if paths is not None
        else {one.path for entry in locked.values() for one in (*list_deps(entry), *list_outs(entry))}
    )
    files = {name: file for path in wanted for name, file in list_files(root, path)}
    digests, unread = hash_files(files.values(), "hashing the project's files")
    return Seen(
        root,
        store,
        locked,
        {name: digests[path] for name, path in files.items() if path in digests},
        {name: unread[path] for name, path in files.items() if path in unread},
        frozenset(path for path in wanted if (root / path).is_dir()),
    )


def list_files(root: Path, path: str) -> Iterator[tuple[str, Path]]:
    """(path below the project, file) of a folder's files as DVC counts them, or of the file itself."""
    place = root / path
    if not place.is_dir():
        if place.is_file():
            yield path, place
        return
    ignored = read_ignored(root)
    for file in place.rglob("*"):
        name = file.relative_to(root).as_posix()
        if file.is_file() and not ignored.match_file(name):
            yield name, file
