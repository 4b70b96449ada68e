"""What DVC says of a project: each stage's files, how its outputs lie there, its cache and locks. With dag.py the one use of DVC's internals."""

import copy
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

LINKS = ("hardlink", "symlink")


@dataclass(frozen=True)
class StageFiles:
    """What dvc.yaml says of a stage. Paths are relative to the project's folder."""

    file: str
    """The file that declares it."""
    key: str | None
    """Its name in the lock file; None for a `.dvc` file, which runs nothing."""
    folder: str
    """Where its command runs."""
    deps: tuple[str, ...]
    """What it reads in the project, files of params among it."""
    outs: tuple[str, ...]
    """What it writes in the project."""
    persisted: frozenset[str]
    """Outs that stay when it fails."""

    @property
    def lock(self) -> str:
        """The lock file with its entry."""
        return Path(self.file).with_suffix(".lock").as_posix()


@dataclass(frozen=True)
class OutputState:
    """How an output lies there, against its entry in the lock file."""

    in_cache: bool
    """Whether DVC's cache has all of what the entry names."""
    as_locked: bool
    """Whether the files in the project are what the entry names."""


@contextmanager
def open_project(root: Path) -> Iterator[Any]:
    """DVC's view of the project at `root`, under DVC's lock, so that dvc.lock is whole. Raises ValueError, in DVC's words, for what it refuses."""
    from dvc.exceptions import DvcException  # here: DVC costs half a second

    try:
        from dvc.repo import Repo

        with Repo(root.as_posix(), _wait_for_lock=True) as repo, repo.lock:
            yield repo
    except DvcException as error:
        msg = f"DVC cannot work in {root}: {error}"
        raise ValueError(msg) from error


def read_stages(root: Path, repo: Any) -> dict[str, StageFiles]:  # noqa: ANN401 - DVC has no types
    """{stage, named as `read_dag` does: its files}."""
    from flows.dag import stage_name

    def inside(files: Iterable[Any]) -> tuple[str, ...]:
        paths = (Path(one.fs_path) for one in files if one.is_in_repo)
        return tuple(dict.fromkeys(path.relative_to(repo.root_dir).as_posix() for path in paths))

    return {
        stage_name(root, stage): StageFiles(
            file=Path(stage.path).relative_to(repo.root_dir).as_posix(),
            key=getattr(stage, "name", None) if stage.cmd else None,
            folder=Path(stage.wdir).relative_to(repo.root_dir).as_posix(),
            deps=inside(stage.deps),
            outs=inside(stage.outs),
            persisted=frozenset(inside(out for out in stage.outs if out.persist)),
        )
        for stage in repo.index.stages
    }


def read_output_states(repo: Any) -> dict[str, OutputState]:  # noqa: ANN401 - DVC has no types
    """{output of a stage: how it lies there}. Files that DVC has not seen since they were written are hashed."""
    return {
        Path(out.fs_path).relative_to(repo.root_dir).as_posix(): OutputState(
            in_cache=bool(out.hash_info) and not out.changed_cache(), as_locked=not out.workspace_status()
        )
        for stage in repo.index.stages
        for out in stage.outs
        if out.is_in_repo
    }


def find_unchanged(root: Path, repo: Any) -> frozenset[str]:  # noqa: ANN401 - DVC has no types
    """The stages, named as `read_dag` does, that `dvc repro` would skip: nothing that they read or wrote is other than the lock file says."""
    from flows.dag import stage_name

    return frozenset(stage_name(root, stage) for stage in repo.index.stages if not stage.changed())


def find_cache(repo: Any) -> Path:  # noqa: ANN401 - DVC has no types
    """The folder of DVC's cache."""
    return Path(repo.cache.local_cache_dir).resolve()


def link_types(repo: Any) -> tuple[str, ...]:  # noqa: ANN401 - DVC has no types
    """How DVC brings files from its cache, the first that works: `cache.type`, or its default."""
    return tuple(repo.config["cache"].get("type") or ("reflink", "copy"))


def write_settings(folder: Path, cache: Path, kinds: Iterable[str]) -> None:
    """Write `config.local` of a `.dvc` folder that shares a cache and knows no git; what else stands there stays."""
    from dvc.config import Config

    with Config(folder.as_posix(), validate=False).edit("local", validate=False) as settings:
        settings.setdefault("cache", {}).update({"dir": cache.as_posix(), "type": ",".join(kinds)})
        settings.setdefault("core", {}).update(
            {"no_scm": True, "autostage": False, "site_cache_dir": (folder / "site").as_posix()}
        )


@contextmanager
def writing(repo: Any, paths: Iterable[str]) -> Iterator[None]:  # noqa: ANN401 - DVC has no types
    """In the block no other DVC command works with the paths. Raises ValueError if one does now."""
    from dvc.lock import LockError
    from dvc.rwlock import rwlock

    hardlink = repo.config["core"].get("hardlink_lock", False)
    waiting = [str(Path(repo.root_dir, path)) for path in paths]
    guard = rwlock(repo.tmp_dir, repo.fs, "retune run", [], waiting, hardlink)
    try:
        guard.__enter__()
    except LockError as error:
        # DVC names the path, the process and its command
        msg = " ".join(str(error).partition("If there are no processes")[0].split())
        raise ValueError(msg) from error
    try:
        yield
    finally:
        guard.__exit__(None, None, None)


def read_entry(root: Path, stage: StageFiles) -> Any:  # noqa: ANN401 - what DVC has written
    """The stage's entry in its lock file; None without one. Raises ValueError if the file is broken."""
    return copy.deepcopy(read_entries(root, stage.lock).get(stage.key))


def read_entries(root: Path, lock: str) -> Mapping[str | None, Any]:
    """{stage: its entry} of a lock file, to be read only; empty without the file. Raises ValueError if it is broken."""
    entries: Mapping[str | None, Any] = parse_locked(*read_text(root / lock)).get("stages", {})
    return entries


def read_text(path: Path) -> tuple[str, str]:
    """A file's path and text; no text without the file."""
    return path.as_posix(), path.read_text(encoding="utf-8") if path.is_file() else ""


@lru_cache(maxsize=4)  # a tenth of a second, and asked several times a stage
def parse_locked(path: str, text: str) -> Any:  # noqa: ANN401 - what DVC has written
    """A lock file's content, as DVC reads it to change it. Raises ValueError if it is broken."""
    from dvc.utils.serialize import YAMLFileCorruptedError
    from dvc.utils.serialize._yaml import parse_yaml_for_update

    try:
        content = parse_yaml_for_update(text, path)
    except YAMLFileCorruptedError as error:
        msg = f"{path} is broken: {error}"
        raise ValueError(msg) from error
    return content


def write_entries(root: Path, lock: str, entries: Mapping[str, Any]) -> None:
    """Put stages' entries into a lock file; None takes one out. The bytes are DVC's own, and come by a rename: no half of it is ever there."""
    from dvc.utils.serialize._yaml import dumps_yaml

    from stages.core.files import write_text

    path, before = read_text(root / lock)
    content = copy.deepcopy(parse_locked(path, before))
    if not content:
        content["schema"] = "2.0"
    stages = content.setdefault("stages", {})
    for key, entry in entries.items():
        if entry is None:
            stages.pop(key, None)
        else:
            stages[key] = entry
    after = dumps_yaml(content)
    if after != before:
        write_text(root / lock, after)


def note_hashes(repo: Any, entry: Mapping[str, Any]) -> None:  # noqa: ANN401 - DVC has no types
    """Tell DVC the hashes of the files that its lock file's entry names, so that it need not read gigabytes that have just been copied."""
    from dvc_data.hashfile.hash_info import HashInfo

    found: dict[Path, str] = {}
    for out in entry.get("outs", []):
        path, digest = Path(repo.root_dir, out["path"]), out.get("md5", "")
        if not digest.endswith(".dir"):
            found[path] = digest
            continue
        listing = Path(repo.cache.local.oid_to_path(digest))
        files = json.loads(listing.read_text(encoding="utf-8")) if listing.is_file() else []
        found |= {path / file["relpath"]: file["md5"] for file in files}
    known = [(str(path), HashInfo("md5", digest), None) for path, digest in found.items() if digest and path.is_file()]
    repo.state.save_many(known, repo.fs)
