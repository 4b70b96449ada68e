"""Records by themselves, against each other, and against dvc.lock's params."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from retune.verify.fields import name_differences, read_object
from retune.verify.kinds import Difference, restore
from retune.verify.locked import LockedStage
from stages.core.files import sha256_tree

RECORDS = "data/records"


class RecordedOutput(TypedDict):
    """An output in a record."""

    path: str
    sha256: str
    files: dict[str, str]


class StageRecord(TypedDict):
    """What a record must hold, as `stages.core.runner` writes it; inputs are looked at by hand, since some name no files."""

    stage: str
    code: dict[str, str]
    environment: dict[str, str]
    params: dict[str, Any]
    inputs: dict[str, dict[str, Any]]
    outputs: dict[str, RecordedOutput]


def read_record(text: bytes) -> tuple[dict[str, Any] | None, str]:
    """(the record, what is wrong with it); None for one that cannot be looked into. Whatever the bytes are, nothing is raised."""
    found = read_object(text)
    if found is None:
        return None, "is cut off, or no JSON object"
    known = TypeAdapter(with_config({"extra": "forbid", "strict": True})(StageRecord))
    try:
        known.validate_python(found)
    except ValidationError as error:
        wrong = [detail for detail in error.errors(include_url=False) if detail["type"] != "extra_forbidden"]
        if wrong:
            fields = sorted({".".join(map(str, detail["loc"])) for detail in wrong})
            return None, f"is no record: {', '.join(fields[:3])}"
        extra = sorted(".".join(map(str, detail["loc"])) for detail in error.errors(include_url=False))
        return (
            found,
            f"has a field that this Retune does not know ({', '.join(extra[:3])}): it is of a newer one, or somebody wrote it",
        )
    if not all(
        isinstance(one.get("path"), str) and isinstance(one.get("sha256"), str) for one in found["inputs"].values()
    ):
        return None, "is no record: an input has no path or sha256"
    return found, ""


def read_records(root: Path, paths: Iterator[str] | list[str]) -> tuple[dict[str, dict[str, Any]], list[Difference]]:
    """({stage: its record}, what is wrong) of records that lie there; one with a field that is unknown is told and used."""
    found: dict[str, dict[str, Any]] = {}
    wrong = []
    for path in paths:
        file, stage = root / path, Path(path).stem
        if not file.is_file():
            continue
        try:
            record, problem = read_record(file.read_bytes())
        except OSError:
            continue  # said where the files are hashed
        said = stage if record is None else record["stage"]
        if said != stage:
            record, problem = None, f"is of the stage {said}"
        if problem:
            wrong.append(Difference("record_unreadable", path, problem, stage=stage, remedy=restore(stage)))
        if record is not None:
            found[stage] = record
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
        said = locked[stage].params.get(stage) if stage in locked else None
        if said is not None:
            for field, words in name_differences(said, record["params"], ("dvc.lock has", "the record has")):
                yield Difference("record_params", path, words, f"params.{field}", stage, f"`dvc repro --force {stage}`")
