"""What a run works on: a copy of what its stages read, as it stood when the run began.

DVC reads params.yaml when a stage's command has ended, and hashes what it read then. So a run in the project itself would lock what
somebody has edited meanwhile for a model that never saw it. A run gets a folder of its own, `.retune/snapshot`, a whole DVC project:

- the files that git knows, and all that dvc.yaml names and no stage writes, committed or not: copied, never linked, since they may be
  edited in place (a reflink where the file system has such: then it takes no time and no space);
- DVC's cache is the project's. Outputs of earlier runs come from there as links, so that no base model lies there twice; DVC protects
  them, and no stage writes in place;
- `.retune` is the project's, so checkpoints, kept code and execution records outlive it.

What comes of the run goes home stage by stage (`flows/homecoming.py`); then the folder is removed. One that a killed run has left
is removed by the next.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.dag import order_stages
from flows.dvc_project import (
    LINKS,
    OutputState,
    StageFiles,
    find_cache,
    find_unchanged,
    link_types,
    open_project,
    read_entry,
    read_output_states,
    read_stages,
    write_settings,
    writing,
)
from flows.file_copies import Mark, copy_file, copy_path, mark_path, remove_path, size_of
from flows.process import dvc_command, dvc_environment
from stages.core.errors import StageError
from stages.dvc_lock.lock import load_yaml

LARGE = 10**9
"""Bytes from which on it is said that copying takes its time."""


@dataclass(frozen=True)
class StartingPoint:
    """A stage at home when the run began: what must still be there when its results come."""

    entry: Any
    """Of the lock file; None without one."""
    marks: Mapping[str, Mark]
    """Of each output."""
    as_locked: bool
    """Whether all outputs were there as the entry has them."""


@dataclass(frozen=True)
class Snapshot:
    """A project as it stood, in a folder of its own."""

    home: Path
    root: Path
    dag: Mapping[str, tuple[str, ...]]
    """Each stage with the stages that it reads from, in order."""
    stages: Mapping[str, StageFiles]
    start: dict[str, StartingPoint]
    """Of each stage that runs something; when its results have come home, how they lie there."""
    unchanged: frozenset[str]
    """The stages that had nothing to do when the run began."""
    links: bool
    """Whether outputs at home are links into the cache, too, because its settings ask for that."""


def snapshot_folder(home: Path) -> Path:
    """Where the run of a project works."""
    return home / ".retune" / "snapshot"


def take_snapshot(home: Path, say: Callable[[str], None]) -> Snapshot:
    """Copy what the stages of the project at `home` read, as it is now. The caller holds the run lock.

    Raises ValueError for a project that cannot be read, that another DVC command is at work with, or that does not fit on the disk.
    """
    try:
        load_yaml(
            "dvc.yaml", (home / "dvc.yaml").read_text(encoding="utf-8")
        )  # of values too deep in one another DVC itself says nothing
        return copy_project(home, say)
    except StageError as error:
        msg = f"{error}; `git checkout -- dvc.yaml` brings back what was committed"
        raise ValueError(msg) from error
    except OSError as error:
        named = Path(error.filename) if isinstance(error.filename, str) else home
        path = named.relative_to(home) if named.is_relative_to(home) and named != home else named
        msg = f"the run cannot begin: {path}: {error.strerror or error}. It must be readable, its folder writable, and the disk have room; then run again"
        raise ValueError(msg) from error


def copy_project(home: Path, say: Callable[[str], None]) -> Snapshot:
    """What `take_snapshot` does; raises OSError, too."""
    root = snapshot_folder(home)
    remove_path(root)
    (root / ".dvc").mkdir(parents=True)
    (root / ".retune").symlink_to(home / ".retune", target_is_directory=True)
    with open_project(home) as repo:
        declared = read_stages(home, repo)
        outs = [out for stage in declared.values() if stage.key for out in stage.outs]
        with writing(repo, outs):
            mend(home, outs)
        states = read_output_states(repo)
        cache, kinds = find_cache(repo), link_types(repo)
        for file in {".dvcignore", ".dvc/config", ".dvc/config.local"} | {
            path for stage in declared.values() for path in (stage.file, stage.lock)
        }:
            copy_file(home / file, root / file)
        start = {
            name: StartingPoint(
                entry=read_entry(root, stage),
                marks={out: mark_path(home / out) for out in stage.outs},
                as_locked=all(out in states and states[out].as_locked for out in stage.outs),
            )
            for name, stage in declared.items()
            if stage.key
        }
    links = bool(set(kinds) & set(LINKS))
    write_settings(root / ".dvc", cache, kinds if links else ("reflink", *LINKS, "copy"))
    with open_project(root) as repo:  # what dvc.yaml says in the copy: at home it may say something else by now
        stages, dag = read_stages(root, repo), order_stages(root, repo)
    copy_inputs(home, root, stages, say)
    bring_outputs(home, root, stages, states)
    begin_git(home, root)
    with open_project(root) as repo:
        unchanged = find_unchanged(root, repo)
    untouched = StartingPoint(None, {}, as_locked=False)
    start = {name: start.get(name, untouched) for name, one in stages.items() if one.key}
    return Snapshot(home, root, dag, stages, start, unchanged, links)


def mend(home: Path, outs: list[str]) -> None:
    """Finish or undo what a run did when it was killed in the moment of bringing an output home."""
    for out in outs:
        remove_path(incoming(home / out))
        former = aside(home / out)
        if former.exists() and not (home / out).exists():
            former.rename(home / out)
        else:
            remove_path(former)


def incoming(path: Path) -> Path:
    """Where an output is written before it takes its place: beside it, so that a rename is enough."""
    return path.with_name(f".{path.name}.incoming.partial")


def aside(path: Path) -> Path:
    """Where the output that was there is, for the moment between two renames."""
    return path.with_name(f".{path.name}.former.partial")


def copy_inputs(home: Path, root: Path, stages: Mapping[str, StageFiles], say: Callable[[str], None]) -> None:
    """Copy what dvc.yaml names and no stage writes, then what else git knows: a command may call a script that dvc.yaml does not name."""
    written = {Path(out) for stage in stages.values() for out in stage.outs}

    def is_written(path: Path) -> bool:
        relative = path.relative_to(home)
        return not written.isdisjoint((relative, *relative.parents))

    read = sorted({home / dep for stage in stages.values() for dep in stage.deps})
    read = [path for path in read if path.exists() and not is_written(path)]
    sizes = {path: size_of(path) for path in read}
    large = {path: size for path, size in sizes.items() if size > LARGE}
    free = shutil.disk_usage(root).free
    if large:
        names = ", ".join(f"{path.relative_to(home)} ({size / 10**9:.1f} GB)" for path, size in large.items())
        say(f"copying {names} for this run: as long as it lasts, the disk holds them twice, unless it clones files")
    for path in read:
        try:
            copy_path(path, root / path.relative_to(home), is_written)
        except OSError as error:
            msg = f"{path.relative_to(home)} cannot be copied for the run ({error.strerror or error}); the disk had {free / 10**9:.1f} GB free"
            raise ValueError(msg) from error
    copy_tracked(home, root, is_written)
    for stage in stages.values():
        (root / stage.folder).mkdir(parents=True, exist_ok=True)
        for out in stage.outs:  # a command may count on the folder that it writes into
            if (home / out).parent.is_dir():
                (root / out).parent.mkdir(parents=True, exist_ok=True)


def copy_tracked(home: Path, root: Path, is_written: Callable[[Path], bool]) -> None:
    """Copy what git knows and is not there yet, without what stages write. Links stay links: no stage says that it reads through them."""
    for path in tracked_files(home):
        target = root / path.relative_to(home)
        if is_written(path) or os.path.lexists(target):
            continue
        if path.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path.readlink())
        else:
            copy_file(path, target)


def tracked_files(home: Path) -> list[Path]:
    """The files that git knows; none without git."""
    listed = ask_git(home, "ls-files", "-z", "--cached")
    return [home / name for name in (listed or "").split("\0") if name]


def bring_outputs(home: Path, root: Path, stages: Mapping[str, StageFiles], states: Mapping[str, OutputState]) -> None:
    """The outputs of earlier runs: from the cache, else copied from home."""
    outs = [out for stage in stages.values() for out in stage.outs]
    cached = [out for out in outs if out in states and states[out].in_cache]
    if cached:
        # what does not come is made again by its stage, or copied below
        subprocess.run(
            dvc_command("checkout", "--quiet", "--force", *cached),
            cwd=root, env=dvc_environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False,
        )  # fmt: skip
    for out in outs:
        if (home / out).exists() and not (root / out).exists():
            copy_path(home / out, root / out, lambda _: False)


def begin_git(home: Path, root: Path) -> None:
    """Give the snapshot the commit and index of now, so that a stage which asks git hears of the files that it reads.

    A repository of its own that borrows the project's objects: nothing is registered in the project's, and a commit there does not move this one.
    """
    head, objects = ask_git(home, "rev-parse", "--verify", "HEAD"), ask_git(home, "rev-parse", "--git-path", "objects")
    index, kind = ask_git(home, "rev-parse", "--git-path", "index"), ask_git(home, "rev-parse", "--show-object-format")
    prefix = ask_git(home, "rev-parse", "--show-prefix")
    if not (head and objects and index and kind) or prefix:  # no git, no commit, or a project in a part of a repository
        return
    if ask_git(root, "init", "--quiet", "--template=", f"--object-format={kind}") is None:
        return
    alternates = root / ".git" / "objects" / "info" / "alternates"
    alternates.parent.mkdir(parents=True, exist_ok=True)
    alternates.write_text(f"{(home / objects).resolve()}\n", encoding="utf-8")
    (root / ".git" / "HEAD").write_text(f"{head}\n", encoding="utf-8")
    (root / ".git" / "info").mkdir(exist_ok=True)
    (root / ".git" / "info" / "exclude").write_text(".retune\n.dvc/\n", encoding="utf-8")
    copy_file(home / index, root / ".git" / "index")


def ask_git(folder: Path, *arguments: str) -> str | None:
    """What git answers; None if it fails or is not there."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.removesuffix("\n") if done.returncode == 0 else None
