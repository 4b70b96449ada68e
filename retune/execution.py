"""The execution records as people read them: when, where and how each stage ran, bound to the record of the same run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, cast

from stages.core.execution import VERSION, ExecutionRecord
from stages.core.files import sha256_file, sha256_files, sha256_tree
from stages.core.value_differences import show_text

FaultKind = Literal["missing", "cut off", "newer version", "unknown field", "other stage", "other run", "edited"]


@dataclass(frozen=True)
class ExecutionFault:
    """Why an execution record does not tell of the files that are here."""

    kind: FaultKind
    says: str


def execution_path(stage: str) -> Path:
    """Where the execution record of a stage is, below the project."""
    return Path("data/execution") / f"{stage}.json"


def read_execution(
    root: Path, stage: str, locked: Mapping[str, str] | None = None
) -> tuple[ExecutionRecord | None, list[ExecutionFault]]:
    """The execution record of a stage, and its faults: none where it is of the run that the stage's record is of.

    The record is None where it cannot be read; with faults it may be there and tell of another run. Whatever the file holds, nothing is raised.
    `locked`: {path: DVC's hash} as dvc.lock has them; None: it is read here.
    """
    path = execution_path(stage)
    if not (root / path).is_file():
        return None, [ExecutionFault("missing", f"{path} is not there")]
    try:
        found = json.loads((root / path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None, [ExecutionFault("cut off", f"{path} is no JSON: cut off or damaged")]
    version = found.get("version") if isinstance(found, dict) else None
    if isinstance(version, int) and version > VERSION:
        return None, [
            ExecutionFault("newer version", f"{path} is of version {version}, and this Retune reads {VERSION}")
        ]
    faults, record = check_form(path, found)
    if record is None:
        return None, faults
    if record["stage"] != stage:
        faults.append(ExecutionFault("other stage", f"{path} is of the stage {record['stage']!r}"))
    named = read_locked_hashes(root) if locked is None else locked
    return record, [*faults, *(find_other_run(root, path, record) or find_edit(root, path, record, named))]


def check_form(path: Path, found: object) -> tuple[list[ExecutionFault], ExecutionRecord | None]:
    """The fields that are unknown, and the record; None for the record where it lacks one or has one of another type."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

    known = TypeAdapter(with_config(ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))(ExecutionRecord))
    try:
        return [], known.validate_python(found)
    except ValidationError as error:
        details = error.errors(include_url=False)
    said = sorted(".".join(map(str, detail["loc"])) or "all of it" for detail in details)
    wrong = [detail for detail in details if detail["type"] != "extra_forbidden"]
    if wrong:
        return [ExecutionFault("cut off", f"{path} is no execution record: {shorten(said)}")], None
    fault = ExecutionFault("unknown field", f"{path} has fields that nothing here writes: {shorten(said)}")
    return [fault], cast("ExecutionRecord", found)


def shorten(names: list[str]) -> str:
    """The first of some names, as Python writes them: they come out of a file."""
    return ", ".join(f"{name!r}" for name in names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")


def find_other_run(root: Path, path: Path, record: ExecutionRecord) -> list[ExecutionFault]:
    """A fault where the record of the run that this tells of is not the one that is here; of a stage without one, its outputs."""
    beside, name = record["record"], record["stage"]
    if beside is not None:
        here = root / "data/records" / f"{name}.json"
        if not here.is_file():
            return [ExecutionFault("other run", f"{path} tells of a run whose record is not here")]
        if sha256_file(here) != beside["sha256"]:
            return [ExecutionFault("other run", f"{path} tells of another run than data/records/{here.name}")]
        return []
    others = [out for out, digest in record["outputs"].items() if digest_output(root, out) != digest]
    return [ExecutionFault("other run", f"{path} tells of a run that made another {others[0]}")] if others else []


def read_locked_hashes(root: Path) -> dict[str, str]:
    """{output: DVC's hash} of all that dvc.lock names; nothing where it cannot be read, which `retune verify` says."""
    from stages.core.errors import StageError
    from stages.dvc_lock.lock import read_locked_stages

    try:
        stages = read_locked_stages(root)
    except StageError:
        return {}
    return {out: digest for entry in stages.values() for out, digest in entry.outs.items()}


def find_edit(root: Path, path: Path, record: ExecutionRecord, locked: Mapping[str, str]) -> list[ExecutionFault]:
    """A fault where dvc.lock names the run that lies here, by its record or its outputs, with another execution record."""
    from stages.dvc_lock.hashes import digest_path

    named = locked.get(path.as_posix())
    if named is None or named == digest_path(root, path.as_posix()):
        return []
    run = list(record["outputs"]) if record["record"] is None else [f"data/records/{record['stage']}.json"]
    if any(locked.get(one) != digest_path(root, one) for one in run):
        return []  # dvc.lock is of another run
    return [ExecutionFault("edited", f"{path} is not what dvc.lock names: it was edited, or is of another run")]


def digest_output(root: Path, output: str) -> str | None:
    """The sha256 of an output as records have it; None where it is not there, or lies elsewhere than in the project."""
    path = root / output
    if not path.exists() or not path.resolve().is_relative_to(root.resolve()):
        return None
    return sha256_tree(sha256_files(path))


def describe_execution(root: Path, stage: str) -> list[str]:
    """Lines on how a stage ran, for the eye: device, when, how long, commit; each param that did not run as asked; what is wrong with the
    record. Of a record of another run nothing else is told.
    """
    record, faults = read_execution(root, stage)
    said = [show_text(fault.says) for fault in faults]
    if record is None or any(fault.kind in ("other run", "other stage", "edited") for fault in faults):
        return said
    return [*said, describe_run(record), *describe_differences(record)]


def describe_run(record: ExecutionRecord) -> str:
    """One line: where, when, how long, of which commit."""
    took = format_seconds(record["wall_seconds"])
    resumed = record["figures"].get("resumed_after_step")
    if resumed:
        took += (
            f" after step {resumed}, where it went on from a checkpoint (what came before is in none of these figures)"
        )
    said = f"{describe_device(record)}, {format_time(record['started_at'])}, {took}, {describe_source(record)}"
    return show_text(said)


def describe_device(record: ExecutionRecord) -> str:
    """What a stage computed on."""
    device, names = record["figures"].get("device"), record["gpu"]["names"]
    if device == "cuda" and names:
        device = names[0]
    processor = record["processor"]["model"] or record["processor"]["architecture"]
    return f"{processor} (CPU)" if device in (None, "cpu") else str(device)


def describe_source(record: ExecutionRecord) -> str:
    """The commit and what differed from it."""
    source = record["source"]
    if source["commit"] is None:
        return f"commit not known: {source['why']}"
    dirty, count = source["dirty"] or [], source["dirty_count"] or 0
    if not count:
        return f"commit {source['commit'][:12]}"
    more = " ..." if count > len(dirty[:3]) else ""
    return f"commit {source['commit'][:12]} and {count} changed or new file{'s' if count != 1 else ''} ({', '.join(dirty[:3])}{more})"


def describe_differences(record: ExecutionRecord) -> list[str]:
    """A line for each param that did not run as it was asked, with the reason."""
    return [
        show_text(f"{key}: asked {json.dumps(one['asked'])}, ran {json.dumps(one['ran'])} ({one['why']})")
        for key, one in record["asked_and_ran"].items()
        if one["state"] == "different"
    ]


def describe_all(root: Path, stages: Sequence[str]) -> list[tuple[str, str]]:
    """(name, value) of a table's rows: how training ran, how long all stages took, what did not run as asked, what is wrong with the records."""
    locked = read_locked_hashes(root)
    found = {stage: read_execution(root, stage, locked) for stage in stages}
    sound = {stage: record for stage, (record, faults) in found.items() if record is not None and not faults}
    told = [("trained on", describe_run(sound["train"]))] if "train" in sound else []
    if sound:
        seconds = sum(record["wall_seconds"] for record in sound.values())
        told.append(("time", f"{format_seconds(seconds)} in {len(sound)} stage{'s' if len(sound) != 1 else ''}"))
    told += [("not as asked", line) for record in sound.values() for line in describe_differences(record)]
    faults = [show_text(fault.says) for _, faults in found.values() for fault in faults]
    if faults:
        more = f"; and {len(faults) - 1} more" if faults[1:] else ""
        told.append(("note", f"{faults[0]}{more}: how these stages ran is not known (`retune verify` names each)"))
    return told


def format_time(said: str) -> str:
    """An ISO time as `2026-12-01 03:12 UTC`; as it stands where it is none."""
    try:
        return f"{datetime.fromisoformat(said).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except (ValueError, OverflowError):
        return said


def format_seconds(seconds: float) -> str:
    """A duration for the eye."""
    if seconds < 90:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"  # noqa: PLR2004
