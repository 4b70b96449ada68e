"""Records by themselves, against each other, and against dvc.lock's params."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from retune.verify.kinds import Difference, restore
from stages.core.errors import StageError
from stages.core.files import sha256_tree
from stages.dvc_lock.lock import LockedStage
from stages.dvc_lock.records import compare_entry, parse_record
from stages.dvc_lock.window import find_edited_code, find_moved_code

RECORDS = "data/records"


def read_records(root: Path, paths: list[str]) -> tuple[dict[str, dict[str, Any]], list[Difference]]:
    """({stage: its record}, what is wrong with others) of records that lie there. One that cannot be believed is held against nothing."""
    found: dict[str, dict[str, Any]] = {}
    wrong = []
    for path in paths:
        file, stage = root / path, Path(path).stem
        try:
            record = parse_record(path, file.read_bytes())
        except OSError:
            continue  # said where the files are hashed
        except StageError as error:
            wrong.append(Difference("record_unreadable", path, str(error), stage=stage, remedy=restore(stage)))
            continue
        if record["stage"] == stage:
            found[stage] = record
        else:
            says = f"is of the stage {record['stage']}"
            wrong.append(Difference("record_unreadable", path, says, "stage", stage, restore(stage)))
    return found, wrong


def compare_records(
    records: Mapping[str, Mapping[str, Any]], locked: Mapping[str, LockedStage], digests: Mapping[str, str]
) -> Iterator[Difference]:
    """Records against each other (what was read is what was written) and against dvc.lock's params.

    `digests`: {path: sha256 as a record has it} of the records as they lie there.
    """
    written = {
        output["path"]: (stage, output["sha256"])
        for stage, record in records.items()
        for output in record["outputs"].values()
    }
    written |= {path: (Path(path).stem, digest) for path, digest in digests.items()}
    for stage, record in records.items():
        path = f"{RECORDS}/{stage}.json"
        for key, output in record["outputs"].items():
            if sha256_tree(output["files"]) != output["sha256"]:
                says = "the sha256 of the whole is not that of its files"
                yield Difference("record_chain", path, says, f"outputs.{key}.sha256", stage, restore(stage))
        for key, source in record["inputs"].items():
            maker, digest = written.get(source["path"], (stage, source["sha256"]))
            if digest != source["sha256"]:
                says = f"{stage} read another {source['path']} than {maker} wrote"
                yield Difference(
                    "record_chain",
                    path,
                    says,
                    f"inputs.{key}.sha256",
                    stage,
                    f"`dvc repro {stage}`, or {restore(stage)}",
                )
        if stage in locked:
            yield from compare_run(record, locked[stage])


def compare_run(record: Mapping[str, Any], entry: LockedStage) -> Iterator[Difference]:
    """The params and the command of a run, by its record and by dvc.lock (`stages.dvc_lock.records`)."""
    kinds = {"params": "record_params", "command": "lock_command"}
    for one in compare_entry(record, entry):
        path = f"{RECORDS}/{one.stage}.json"
        kind = kinds.get(one.kind, "record_changed")
        yield Difference(kind, path, one.says, one.field, one.stage, f"`dvc repro --force {one.stage}`")


def compare_code(
    root: Path, records: Mapping[str, Mapping[str, Any]], locked: Mapping[str, LockedStage]
) -> Iterator[Difference]:
    """Code that dvc.lock has as it was edited when a stage had just ended (`stages.dvc_lock.window`)."""
    for stage, record in records.items():
        moved = find_moved_code(root, record) if stage in locked else []
        for one in find_edited_code(root, record, locked[stage], moved) if moved else ():
            yield Difference("lock_false", one.field, one.says, stage=stage, remedy=f"`dvc repro --force {stage}`")
