"""The stages' records held against dvc.lock: does DVC note each run down as the run that it was?

A record is written by the process that did the work, of what it read at its start; dvc.lock by DVC, of what lay there when the process had
ended. Where they differ, the record is right about what was made, and dvc.lock (and DVC's run cache, which would hand the outputs out for
params that never made them) is false.
"""

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stages.core.asked_and_ran import list_keys
from stages.core.errors import StageError
from stages.core.value_differences import ABSENT, compare_values, is_same, show_text, show_value
from stages.dvc_lock.hashes import digest_file, digest_path
from stages.dvc_lock.lock import LOCK, LockedStage, parse_stage, read_locked_stages, show_names

Kind = Literal["params", "command", "inputs", "code", "record", "not in lock"]
"""What is wrong: dvc.lock has other `params`, another `command`, other `inputs` or `code` than the run had: then its entry is false.
`record`: the file is no record, or not the one that dvc.lock names: then the record is what is to be doubted. `not in lock`: dvc.lock does
not know the stage, so its record proves nothing."""
FALSE_ENTRY: frozenset[Kind] = frozenset({"params", "command", "inputs", "code"})
"""The kinds that make an entry of dvc.lock false."""

FIELDS = {"stage", "code", "environment", "params", "inputs", "outputs"}
"""Of a record, as `stages.core.runner` writes it."""
BESIDE = {"record", "environment", "execution"}
"""Flags of a stage's command that are neither an input nor an output of its record."""


@dataclass(frozen=True)
class LockDifference:
    """One thing in which a record and dvc.lock differ."""

    stage: str
    kind: Kind
    field: str
    """What differs: `train.learning_rate`, `--base`, a path."""
    says: str
    """In words, with the field: `train.learning_rate: the record says 0.002, dvc.lock says 0.0001`."""


def compare_records(root: Path, records: str) -> list[LockDifference]:
    """Every difference between the records in a folder and dvc.lock, by stage: the files' bytes, commands, params.

    Args:
        root: the project's folder.
        records: the folder with the records, relative to it: data/records.

    Raises StageError, in words, if dvc.lock is not there or cannot be understood. A record that cannot is a difference.
    """
    locked = read_locked_stages(root)
    found: list[LockDifference] = []
    for file in sorted((root / records).glob("*.json")):
        found += compare_record_file(root, f"{records}/{file.name}", locked)
    wanted = {
        path: stage.name for stage in locked.values() for path in stage.outs if Path(path).parent == Path(records)
    }
    found += [
        LockDifference(stage, "record", path, f"{path}, which {LOCK} names, is not there")
        for path, stage in wanted.items()
        if not (root / path).is_file()
    ]
    return found


def compare_record_file(root: Path, path: str, locked: Mapping[str, LockedStage]) -> Iterator[LockDifference]:
    """The differences of one record, which lies at `path` below the project."""
    stage = Path(path).stem
    entry = locked.get(stage)
    try:
        record = parse_record(path, (root / path).read_bytes())
    except (StageError, OSError) as error:
        yield LockDifference(stage, "record", path, str(error))
        return
    if entry is None:
        yield LockDifference(
            stage,
            "not in lock",
            path,
            f"{path}: {LOCK} does not know the stage {show_text(stage)}, so its record proves nothing",
        )
        return
    if entry.outs.get(path) != digest_file(root / path):
        yield LockDifference(stage, "record", path, f"{path} is not the record that {LOCK} names")
    yield from compare_entry(record, entry)


def read_records(records: Path) -> dict[str, dict[str, Any]]:
    """{stage: its record} of a folder. Raises StageError, with what to do, if one is no whole record."""
    found = {}
    for file in sorted(records.glob("*.json")):
        try:
            found[file.stem] = parse_record(file.as_posix(), file.read_bytes())
        except (StageError, OSError) as error:
            raise StageError(
                f"{error}. `retune restore --force {file.stem}` brings back the one that {LOCK} names, or says what is in the way"
            ) from error
    return found


def parse_record(name: str, content: bytes) -> dict[str, Any]:
    """A record's value. Raises StageError, in words, if it is cut off, lacks a field or has one that nobody knows."""
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise StageError(f"{name} is no whole JSON file: it is cut off or damaged") from error
    if not isinstance(record, dict):
        raise StageError(f"{name} is no record: it must be a mapping")
    missing, unknown = FIELDS - record.keys(), record.keys() - FIELDS
    if missing:
        raise StageError(f"{name} is no whole record: {show_names(missing)} missing")
    if unknown:
        raise StageError(
            f"{name} has {show_names(unknown)}, which no record has here: another version wrote it, or a hand"
        )
    for field in FIELDS - {"stage"}:
        if not isinstance(record[field], dict):
            raise StageError(f"{name}: `{field}` must be a mapping")
    for field in ("inputs", "outputs"):
        for key, one in record[field].items():
            if not is_files(one, listed=field == "outputs"):
                raise StageError(f"{name}: `{field}.{show_text(key)}` must have a path, a sha256 and files with theirs")
    return record


def is_files(one: object, *, listed: bool) -> bool:
    """Whether a value has the form of an input or output in a record: path, sha256, and (of an output always) {file: sha256}."""
    if not isinstance(one, dict) or not all(isinstance(one.get(part), str) for part in ("path", "sha256")):
        return False
    files = one.get("files", None if listed else {})
    return isinstance(files, dict) and all(isinstance(digest, str) for digest in files.values())


def compare_entry(record: Mapping[str, Any], entry: LockedStage) -> Iterator[LockDifference]:
    """In which params, and in what of the command, an entry of dvc.lock is of another run than a record. Pure.

    A param that the record lacks altogether is new since then: only `retune accept` notes such a one down for a run that did not have it,
    when the code is another, too; it is no difference here where the record names the code of its run (`stages.dvc_lock.window` looks at that).
    """
    stage = entry.name
    if record["stage"] != stage:
        yield LockDifference(
            stage,
            "record",
            "stage",
            f"the record of {show_text(stage)} says that it is of {show_value(record['stage'])}",
        )
        return
    if record["params"] or stage in entry.params:
        for field in compare_values(stage, record["params"], entry.params.get(stage, ABSENT)):
            if field.first is not ABSENT or field.second is ABSENT:
                yield LockDifference(
                    stage,
                    "params",
                    field.name,
                    f"{field.name}: the record says {show_value(field.first)}, {LOCK} says {show_value(field.second)}",
                )
    yield from compare_command(record, entry)


def compare_asked(root: Path, entry: LockedStage) -> list[LockDifference]:
    """In which params an entry is of another run, of a stage without a record: by its execution record, which has what the run was asked.

    Nothing where it is not the one that the entry names, or cannot be read: `retune verify` says that.
    """
    path = read_flags(entry.cmd).get("execution")
    if path is None or find_record_path(entry) or entry.outs.get(path, "-") != digest_path(root, path):
        return []
    try:
        told = json.loads((root / path).read_bytes())["asked_and_ran"]
        asked = {key: one["asked"] for key, one in told.items() if key.startswith(f"{entry.name}.")}
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return []
    noted = dict(list_keys(entry.name, entry.params.get(entry.name, {})))
    found = []
    for key, first in asked.items():  # one that came in since is `retune accept`'s, as in compare_entry
        second = noted.get(key, ABSENT)
        if not is_same(first, second):
            says = f"{show_text(key)}: {entry.name} was asked {show_value(first)}, {LOCK} says {show_value(second)}"
            found.append(LockDifference(entry.name, "params", key, says))
    return found


def find_added_params(record: Mapping[str, Any], entry: LockedStage) -> list[str]:
    """The params that dvc.lock has and the record lacks: of a run before they were known, which `retune accept` has taken as harmless."""
    fields = compare_values(entry.name, record["params"], entry.params.get(entry.name, {}))
    return [field.name for field in fields if field.first is ABSENT]


def compare_command(record: Mapping[str, Any], entry: LockedStage) -> Iterator[LockDifference]:
    """The inputs and outputs of a record that are not at the paths that the command in dvc.lock has after their flags."""
    recorded = {key: one["path"] for field in ("inputs", "outputs") for key, one in record[field].items()}
    flags = {key: path for key, path in read_flags(entry.cmd).items() if key not in BESIDE}
    for key in dict.fromkeys([*recorded, *flags]):
        if recorded.get(key) != flags.get(key):
            said = [show_value(paths.get(key, ABSENT)) for paths in (recorded, flags)]
            field = f"--{show_text(key)}"
            yield LockDifference(
                entry.name,
                "command",
                field,
                f"{show_text(entry.name)} {field}: the record says {said[0]}, {LOCK} says {said[1]}",
            )


def read_flags(command: str) -> dict[str, str]:
    """{flag: the path after it} of a stage's command."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    return {word[2:]: words[at + 1] for at, word in enumerate(words[:-1]) if word.startswith("--")}


def find_record_path(entry: LockedStage) -> str | None:
    """Where a stage writes its record, by its command; None for a stage without one."""
    return read_flags(entry.cmd).get("record")


def parse_run(name: str, value: object) -> LockedStage:
    """An entry of DVC's run cache, which is in the form of dvc.lock's stages: of the stage that its command runs. Raises StageError."""
    entry = parse_stage(name, "", value)
    words = entry.cmd.split()
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    return LockedStage(module.removeprefix("stages."), entry.cmd, entry.params, entry.deps, entry.outs, entry.sizes)
