"""Whether an output is what its stage wrote, before a cache is mended of it: its md5 in dvc.lock may have been written there by hand."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

from retune.execution import execution_path
from retune.verify.locked import LockedPath
from retune.verify.seen import Seen
from stages.core.errors import StageError
from stages.dvc_lock.lock import LOCK, LockedStage, load_yaml, parse_lock
from stages.dvc_lock.records import find_record_path, parse_record
from stages.dvc_lock.run_cache import read_runs


def find_doubt(seen: Seen, out: LockedPath) -> str:
    """What speaks against an output whose md5 is dvc.lock's; empty if nothing does.

    The record of its stage, if it is the one that dvc.lock names, and the outputs that lie there must agree. The committed dvc.lock and
    DVC's run cache must not have other bytes of it for the same command, inputs and params. Execution records are others at each run.
    """
    entry = seen.locked[out.stage]
    path = find_record_path(entry) or ""
    others = find_unlike_record(seen, entry, path)
    told = [name for name in others if out.path in (path, name) or name.startswith(f"{out.path}/")]
    if told:
        return f"{path} names another sha256 of {told[0]} than lies there"
    if out.path == execution_path(out.stage).as_posix():
        return ""
    if any(one.outs.get(out.path, out.md5) != out.md5 for one in read_committed(seen.root, entry)):
        return f"the committed {LOCK} has other bytes of it for the same command, inputs and params"
    runs = [run.entry.outs.get(out.path) for run in read_runs(seen.store) if is_same_work(run.entry, entry)]
    if runs and out.md5 not in runs:
        return "DVC's run cache has other bytes of it for the same command, inputs and params"
    return ""


def find_unlike_record(seen: Seen, entry: LockedStage, path: str) -> list[str]:
    """The files of a stage's outputs that its record (at `path`) has otherwise; none where that record is not the one that dvc.lock names."""
    if not path or seen.digest(path) != entry.outs.get(path):
        return []
    try:
        record = parse_record(path, (seen.root / path).read_bytes())
    except (OSError, StageError):
        return []
    found = []
    for output in record["outputs"].values():
        if seen.digest(output["path"]) != entry.outs.get(output["path"]):
            continue  # this one is to be replaced, and says nothing
        there = {name: one.sha256 for name, one in seen.below(output["path"]).items()}
        single = output["path"] not in seen.folders and list(output["files"]) == [Path(output["path"]).name]
        said = {output["path"] if single else f"{output['path']}/{name}": one for name, one in output["files"].items()}
        found += [name for name in sorted(there.keys() | said.keys()) if there.get(name) != said.get(name)]
    return found


def read_committed(root: Path, entry: LockedStage) -> Iterator[LockedStage]:
    """The committed entry of a stage, if it is of the same work."""
    said = subprocess.run(["git", "show", f"HEAD:./{LOCK}"], cwd=root, capture_output=True, check=False)
    if said.returncode != 0:
        return
    try:
        found = parse_lock(load_yaml(LOCK, said.stdout.decode(errors="replace"))).get(entry.name)
    except StageError:
        return
    if found is not None and is_same_work(found, entry):
        yield found


def is_same_work(one: LockedStage, other: LockedStage) -> bool:
    """Whether two entries have the same command, inputs and params."""
    return (one.cmd, one.deps, one.params) == (other.cmd, other.deps, other.params)
