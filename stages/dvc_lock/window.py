"""What was edited after a stage had compared its inputs and code and before DVC read them: dvc.lock names bytes that the run never saw.

Params that were edited then show in dvc.lock itself (`stages.dvc_lock.records`). Of files it has a hash of another kind than the record
has, so both are taken of what lies there now: where DVC's fits and the record's does not, the run read something else. Where neither fits,
somebody has edited the file since, and nothing is said. Left out is what a stage wrote (the next `dvc repro` puts it back, and the audit
compares the records with each other), and a file that came into a folder of which the params ask for some: the record does not name it.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stages.core.files import files_below, scratch, sha256_file, sha256_files, sha256_tree
from stages.core.project_code import KEPT
from stages.core.value_differences import show_text
from stages.dvc_lock.hashes import digest_path
from stages.dvc_lock.lock import LOCK, LockedStage
from stages.dvc_lock.records import LockDifference, find_added_params


def find_window_edits(
    root: Path, record: Mapping[str, Any], locked: Mapping[str, LockedStage], limit: int | None
) -> Iterator[LockDifference]:
    """The inputs and the code of a run that dvc.lock has as they were edited before DVC read them; and params that came in then.

    Args:
        root: the project's folder.
        record: of a stage that `locked` has, whole (`stages.dvc_lock.records.parse_record`).
        locked: {stage: its entry in dvc.lock}.
        limit: bytes of the user's inputs above which they are not hashed; None: all are.
    """
    entry = locked[record["stage"]]
    yield from find_edited_inputs(root, record, locked, limit)
    moved = find_moved_code(root, record)
    if moved:
        yield from find_edited_code(root, record, entry, moved)
    else:  # `retune accept` takes a new param for harmless only where the code is another
        for name in find_added_params(record, entry):
            says = f"{name}: the record says nothing, {LOCK} has it, and the code is that of the run"
            yield LockDifference(entry.name, "params", name, says)


def find_edited_inputs(
    root: Path, record: Mapping[str, Any], locked: Mapping[str, LockedStage], limit: int | None
) -> Iterator[LockDifference]:
    """The inputs that no stage wrote, of which dvc.lock has other bytes than the run read."""
    entry = locked[record["stage"]]
    own = [
        source
        for source in record["inputs"].values()
        if not any(stage.owns(source["path"]) for stage in locked.values()) and source["path"] in entry.deps
    ]
    for source in own:
        path = source["path"]
        if limit is not None and sum(file.stat().st_size for file in files_read(root, source)) > limit:
            continue
        if not reads_the_same(root, source) and digest_path(root, path) == entry.deps[path]:
            yield LockDifference(
                entry.name,
                "inputs",
                path,
                f"{show_text(path)}: {entry.name} read other bytes than {LOCK} has (sha256 {source['sha256']} in the record): it was edited "
                "when the stage had just ended",
            )


def files_read(root: Path, source: Mapping[str, Any]) -> list[Path]:
    """The files of an input that a record speaks of, as far as they are there."""
    place = root / source["path"]
    if "files" not in source:
        return files_below(place)
    named = [place if place.is_file() else place / name for name in source["files"]]
    return [file for file in named if file.is_file()]


def reads_the_same(root: Path, source: Mapping[str, Any]) -> bool:
    """Whether an input's bytes, as far as it was read, are those of the record."""
    if "files" not in source:
        return sha256_tree(sha256_files(root / source["path"])) == str(source["sha256"])
    return len(files_read(root, source)) == len(source["files"]) and all(
        sha256_file(file) == digest
        for file, digest in zip(files_read(root, source), source["files"].values(), strict=True)
    )


def find_moved_code(root: Path, record: Mapping[str, Any]) -> list[str]:
    """The files of a run's code that are not what they were when it ran."""
    return [
        path
        for path, digest in record["code"].items()
        if not (root / path).is_file() or sha256_file(root / path) != digest
    ]


def find_edited_code(
    root: Path, record: Mapping[str, Any], entry: LockedStage, moved: list[str]
) -> Iterator[LockDifference]:
    """Of the code that is another now, what dvc.lock has as it is now although it does other work than what ran.

    `retune accept` has it so, too, where the work is proven to be the same: of that, a comment's or docstring's edit is told by the text that
    was kept when the stage ran. With params that are new since then, or where that text is gone, nothing can be told.
    """
    if find_added_params(record, entry):
        return
    # imported here: only where code has moved at all
    from stages.dvc_lock.same_tree import is_same_tree

    digests: dict[str, str] = {}
    for path in moved:
        dep = next((dep for dep in sorted(entry.deps, key=len) if path == dep or path.startswith(f"{dep}/")), None)
        if dep is None:
            continue
        if dep not in digests:
            digests[dep] = digest_path(root, dep)
        if digests[dep] != entry.deps[dep]:
            continue
        ran = find_kept_text(root, path, record["code"][path])
        if ran is not None and ((root / path).is_file() and not is_same_tree(ran, (root / path).read_bytes())):
            says = f"{show_text(path)}: {LOCK} has other code than {entry.name} ran: it was edited when the stage had just ended"
            yield LockDifference(entry.name, "code", path, says)


def find_kept_text(root: Path, path: str, digest: str) -> bytes | None:
    """The text of a file with a sha256, of those that a stage kept when it ran; None if it is not there any more."""
    for file in (scratch(root) / KEPT).glob(f"*{Path(path).suffix}"):
        if sha256_file(file) == digest:
            return file.read_bytes()
    return None
