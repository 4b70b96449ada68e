"""The last link: which commits have a stage's entry of dvc.lock, to the last hash."""

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from retune.execution import execution_path
from retune.origin.links import Link
from stages.core.errors import StageError
from stages.dvc_lock.lock import LockedStage, load_yaml, parse_lock

REFS = ("--branches", "--tags", "--remotes", "HEAD")
"""Where commits are looked for."""
SHORT = 12
"""Digits of a commit that are shown."""
ALONE = (
    "whoever can write here could have made file, record and lock; commit dvc.lock, and git says since when it stands"
)


def check_commits(lock: Path, entry: LockedStage) -> Link:
    """Whether a commit has this entry of dvc.lock: the command, every dep, param and output but the execution record, which each run has its own of.

    A commit that has other outputs for the same command, deps and params contradicts it.
    """
    work = leave_execution(entry)
    commits = list(read_versions(lock))
    if not commits:
        return Link("git", "unknown", f"no commit has {lock.name}: {ALONE}")
    outs, deps = set(work.outs.values()), set(entry.deps.values())
    having, other = [], ""
    for commit, date, text in commits:
        names_outs = all(digest.encode() in text for digest in outs)
        if not names_outs and not all(digest.encode() in text for digest in deps):
            continue
        try:
            found = parse_lock(load_yaml(lock.name, text.decode(errors="replace"))).get(entry.name)
        except StageError:
            continue
        exact = found == entry
        found = None if found is None else leave_execution(found)
        if found == work:
            having.append((commit, date, exact))
        elif found is not None and (found.cmd, found.deps, found.params) == (entry.cmd, entry.deps, entry.params):
            other = other or commit
    if having:
        commit, date, exact = having[-1]
        apart = "" if exact else " (all but its execution record, which is of another run)"
        more = f" and in {len(having) - 1} more" if len(having) > 1 else ""
        return Link("git", "proven", f"that entry of {lock.name}{apart} is in commit {commit[:SHORT]} ({date}){more}")
    if other:
        says = f"commit {other[:SHORT]} has other outputs of {entry.name} for the same command, inputs and params; if yours are of a run of their own, commit dvc.lock"
        return Link("git", "contradicted", says)
    return Link("git", "unknown", f"no commit has that entry of {lock.name}: {ALONE}")


def leave_execution(entry: LockedStage) -> LockedStage:
    """The entry without its execution record: how long a run took, and where, is not what it made."""
    path = execution_path(entry.name).as_posix()
    kept = {name: digest for name, digest in entry.outs.items() if name != path}
    return replace(entry, outs=kept, sizes={name: size for name, size in entry.sizes.items() if name != path})


def read_versions(lock: Path) -> Iterator[tuple[str, str, bytes]]:
    """(commit, date, text) of each version of a file that HEAD, a branch or a tag has, the newest first; none without git.

    A stash is no commit that anybody made to keep: it counts for nothing, as what other refs than these hold.
    """
    place = lock.resolve()
    command = ["git", "log", "--ignore-missing", *REFS, "--format=%H %cs", "--", place.name]
    listed = subprocess.run(command, cwd=place.parent, capture_output=True, text=True, check=False).stdout
    for line in listed.splitlines():
        commit, _, date = line.partition(" ")
        said = subprocess.run(
            ["git", "show", f"{commit}:./{place.name}"], cwd=place.parent, capture_output=True, check=False
        )
        if said.returncode == 0:
            yield commit, date, said.stdout
