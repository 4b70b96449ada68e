"""Inputs held against the records of the stages that wrote them: bytes that DVC took from a damaged cache are refused.

DVC believes what lies in its cache and in the workspace as long as size and time are as they were. The record of the stage that wrote
an input has the sha256 of each file, and a stage hashes its inputs anyway.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.core.errors import StageError
from stages.core.inputs import Read

log = logging.getLogger("retune")

RECORDS = "records"
"""The folder with the records: it lies beside the outputs, or above them."""
NAMED = 5
"""Files that a message names."""


@dataclass(frozen=True)
class Written:
    """What a record says of an input."""

    stage: str
    record: Path
    digests: Mapping[str, str]
    """{path below the input: sha256}; of an input that is a file, its name."""


def refuse_rotten(inputs: Mapping[str, Read]) -> None:
    """Raise StageError for an input whose bytes are not those that the stage wrote which made it.

    A stage that is given the records themselves judges their bytes itself, and writes down what it found: nothing is refused to it.
    Where several records name an input (a stage was renamed, and its old record is still there), one that agrees is enough.
    """
    records = {folder for read in inputs.values() for folder in find_records(read.path)}
    if any(read.path in records for read in inputs.values()):
        return
    known = [record for folder in sorted(records) for record in read_outputs(folder)]
    for read in inputs.values():
        said = [written for record in known if (written := find_written(read.path, *record)) is not None]
        wrong = [describe_rot(read, written) for written in said]
        if wrong and all(wrong):
            raise StageError(wrong[-1])


def find_records(path: Path) -> list[Path]:
    """The folders with records beside an input, or above it in the project."""
    return [folder / RECORDS for folder in path.parents if folder != Path() and (folder / RECORDS).is_dir()]


def read_outputs(folder: Path) -> Iterator[tuple[Path, str, Mapping[str, Any]]]:
    """(file, stage, its outputs) of every record in a folder. What is no record proves nothing, and is said in the log."""
    for file in sorted(folder.glob("*.json")):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            outputs = {str(one["path"]): dict(one["files"]) for one in record["outputs"].values()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            log.warning("%s is no whole record, so what it speaks of is not compared with it", file)
        else:
            yield file, file.stem, outputs


def find_written(path: Path, record: Path, stage: str, outputs: Mapping[str, Any]) -> Written | None:
    """What a record says of an input; None if it is no output of its stage, and nothing in one."""
    for output, files in outputs.items():
        if path == Path(output):
            return Written(stage, record, files)
        if path.is_relative_to(output):
            inside = path.relative_to(output).as_posix()
            below = {
                name.removeprefix(f"{inside}/"): digest
                for name, digest in files.items()
                if name.startswith(f"{inside}/")
            }
            return Written(stage, record, {path.name: files[inside]} if inside in files else below)
    return None


def describe_rot(read: Read, written: Written) -> str:
    """What is wrong with an input by a record, and what to do; empty if its bytes are those of the record."""
    wrong = [
        f"{name} is {'not what it wrote' if name in written.digests else 'none of its files'}"
        for name, digest in read.digests.items()
        if written.digests.get(name) != digest
    ]
    if read.whole:
        wrong += [f"{name} is not there" for name in written.digests if name not in read.digests]
    if not wrong:
        return ""
    more = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
    return (
        f"{read.path} is not what {written.stage} wrote, by its record {written.record}: {'; '.join(wrong[:NAMED])}{more}. "
        f"Nothing was made of it. `retune restore --force {written.stage}` brings back what it wrote, or says what was damaged in DVC's cache "
        "and what to do about it; `retune verify` looks at all that lies there."
    )
