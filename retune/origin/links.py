"""The links of the chain from a file to git, each proven, contradicted, or unknown."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from retune.verdict import RECORDS
from retune.verify.digests import FileDigests
from stages.core.errors import StageError
from stages.core.project_code import md5
from stages.dvc_lock.lock import LockedStage
from stages.dvc_lock.records import parse_record

State = Literal["proven", "contradicted", "unknown"]


@dataclass(frozen=True)
class Link:
    """One link."""

    name: Literal["record", "metadata", "lock", "locked_file", "git"]
    """`record`: a record names the file's sha256. `metadata`: the hash of the records that stands in a GGUF file is theirs. `lock`: dvc.lock
    names that record's md5. `locked_file`: dvc.lock names the file's md5, too. `git`: a commit's dvc.lock has that entry."""
    state: State
    says: str


@dataclass(frozen=True)
class FoundRecord:
    """A file, and the record that names it."""

    stage: str
    path: Path
    content: bytes
    output: str
    """The path of the output that the file belongs to, as the record has it."""
    name: str
    """The file's path below the project, as the record has it."""
    sha256: str
    problem: str
    """Why the record is not to be believed; empty if nothing speaks against it."""


def find_record(file: Path, digests: FileDigests, records: Path | None) -> tuple[FoundRecord | None, Link]:
    """The record that names a file's sha256, and the link to it; a record that cannot be believed is said."""
    if records is None or not records.is_dir():
        where = (
            f"in {records}" if records else "here: call it in the project's folder, or name the folder with --records"
        )
        return None, Link("record", "unknown", f"there are no records {where}")
    named = list(list_named(records))
    here = [one for one in named if is_place(file, records, one.name)]
    others = [one for one in here if one.sha256 != digests.sha256]
    if others:
        first = others[0]
        says = f"the record of {first.stage} has another sha256 of {first.name}: {first.sha256}"
        return None, Link("record", "contradicted", says)
    same = here or [one for one in named if one.sha256 == digests.sha256]
    believed = [one for one in same if not one.problem]
    if believed:
        one = believed[0]
        return one, Link("record", "proven", f"the record of {one.stage} has this sha256 as {one.name}")
    if same:
        return None, Link("record", "unknown", f"{same[0].problem}; so it proves nothing")
    doubts = [problem for _, _, record, problem in read_candidates(records) if record is None]
    more = f" ({'; '.join(doubts)})" if doubts else ""
    return None, Link("record", "unknown", f"no record has a file with this sha256{more}")


def read_candidates(records: Path) -> Iterator[tuple[Path, bytes, dict[str, Any] | None, str]]:
    """(file, bytes, record, what is wrong with it) of what lies in the folder; None for what is no record."""
    for path in sorted(records.glob("*.json")):
        try:
            content = path.read_bytes()
            record = parse_record(path.name, content)
        except OSError as error:
            yield path, b"", None, f"{path.name} cannot be read ({error.strerror})"
        except StageError as error:
            yield path, content, None, str(error)
        else:
            other = "" if record["stage"] == path.stem else f"{path.name} is of the stage {record['stage']}"
            yield path, content, record, other


def list_named(records: Path) -> Iterator[FoundRecord]:
    """Every file that a record names."""
    for path, content, record, problem in read_candidates(records):
        for output in (record or {"outputs": {}})["outputs"].values():
            for inner, sha256 in output["files"].items():
                name = output["path"] if is_single(output) else f"{output['path']}/{inner}"
                yield FoundRecord(path.stem, path, content, output["path"], name, sha256, problem)


def is_single(output: dict[str, Any]) -> bool:
    """Whether an output is a file: its record names that file alone."""
    return list(output["files"]) == [Path(output["path"]).name]


def is_place(file: Path, records: Path, name: str) -> bool:
    """Whether the file lies where the project of the records has that name: data/records lies two folders below it."""
    try:
        return (records.resolve().parents[1] / name).resolve() == file.resolve()
    except (ValueError, OSError):  # no path at all
        return False


def check_metadata(hash_said: object, records: Path) -> Link:
    """The hash of all records before the export, as the file says it, against those that lie there. The export's record says which."""
    from stages.gguf_export.provenance_keys import records_digest

    try:
        record = parse_record("gguf.json", (records / "gguf.json").read_bytes())
    except (OSError, StageError) as error:
        return Link("metadata", "unknown", f"{error}, so nothing says whose records' hash stands in the file")
    named = [Path(one["path"]) for one in record["inputs"].values()]
    files = [records / path.name for path in named if path.parent == RECORDS]
    missing = ", ".join(file.name for file in files if not file.is_file())
    if missing or not files:
        return Link("metadata", "unknown", f"{missing or 'what gguf read is'} not among the records")
    same = records_digest(files) == hash_said
    return Link(
        "metadata",
        "proven" if same else "contradicted",
        f"the records' own hash {'is' if same else 'is not'} the one in the file",
    )


def check_lock(found: FoundRecord, entry: LockedStage | None) -> Link:
    """The record against dvc.lock: one that the lock does not know proves nothing."""
    name = f"data/records/{found.path.name}"
    digest = entry.outs.get(name) if entry else None
    if digest is None:
        return Link("lock", "unknown", f"dvc.lock has no record of {found.stage}, so this one proves nothing")
    if digest != md5(found.content):
        return Link(
            "lock", "unknown", f"the record of {found.stage} is not the one that dvc.lock names, so it proves nothing"
        )
    return Link("lock", "proven", f"dvc.lock names that record (md5 {digest})")


def check_locked_file(found: FoundRecord, digests: FileDigests, listing: dict[str, str] | None) -> Link:
    """The file's md5 against dvc.lock's. `listing`: {path below the project: md5} of the output; None where nobody has it."""
    if listing is None:
        return Link(
            "locked_file",
            "unknown",
            f"what dvc.lock's hash of {found.output} is of is not here, so the file's md5 is held against nothing",
        )
    if found.name not in listing:
        return Link("locked_file", "contradicted", f"dvc.lock's {found.output} has no {found.name}")
    if listing[found.name] != digests.md5:
        return Link("locked_file", "contradicted", f"dvc.lock names another md5 of {found.name}: {listing[found.name]}")
    return Link("locked_file", "proven", f"and this file's md5 ({digests.md5})")
