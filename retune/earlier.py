"""What lies in data/ of an earlier run: stages whose records say that they read other files than lie there now.

A run that ended before its last stage, or `retune run STAGE`, leaves new files beside those that were made of the former ones. The records
and the verdict tell them apart by the hashes in them, without a look at large files.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retune.verdict import AUDIT, GATE, RECORDS, StandingVerdict, is_of_verdict
from stages.contracts.audit import AuditVerdict, GateVerdict, read_answer
from stages.core.files import sha256_file, sha256_files, sha256_tree

REPORT = Path("data/report/index.html")
ADAPTER = "data/adapter"


def find_earlier(root: Path) -> list[str]:
    """The stages of which an earlier run's files lie there, by the records and the verdict; those that tell nothing are left out."""
    records = read_sound_records(root)
    return [*find_earlier_records(root, records), *find_earlier_judges(root)]


def read_sound_records(root: Path) -> dict[str, dict[str, Any]]:
    """{stage: its record} of those that lie there and can be read."""
    from stages.core.errors import StageError
    from stages.dvc_lock.records import parse_record

    found = {}
    for path in sorted((root / RECORDS).glob("*.json")):
        try:
            found[path.stem] = parse_record(path.name, path.read_bytes())
        except (StageError, OSError):
            continue
    return found


def find_earlier_records(root: Path, records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The stages that read something else than its stage wrote, by the records, and those that read what such a stage wrote."""
    written = {
        output["path"]: (stage, output["sha256"])
        for stage, record in records.items()
        for output in record["outputs"].values()
    }
    for stage in records:
        path = RECORDS / f"{stage}.json"
        written[path.as_posix()] = (stage, sha256_tree(sha256_files(root / path)))
    read = {
        stage: [
            (*written[source["path"]], source["sha256"])
            for source in record["inputs"].values()
            if source["path"] in written
        ]
        for stage, record in records.items()
    }
    earlier: set[str] = set()
    while True:
        found = {
            stage
            for stage, sources in read.items()
            if any(maker in earlier or wrote != took for maker, wrote, took in sources)
        }
        if found == earlier:
            return order_stages(earlier, read)
        earlier = found


def order_stages(stages: set[str], read: Mapping[str, list[tuple[str, str, str]]]) -> list[str]:
    """Some stages, each behind those whose files it read; in the alphabet's order where none read the other's."""
    ordered: list[str] = []
    left = sorted(stages)
    while left:
        ready = [stage for stage in left if not {maker for maker, _, _ in read[stage]} & (set(left) - {stage})]
        ordered += ready or left
        left = [stage for stage in left if stage not in ordered]
    return ordered


def find_earlier_judges(root: Path) -> list[str]:
    """Of audit, report and gate those that judged other records than lie there, or that are of another audit."""
    try:
        verdict = read_answer(root / AUDIT, AuditVerdict)
    except ValueError:
        return []
    judged = [(root / name, digest) for name, digest in verdict.judged.items() if Path(name).parent == RECORDS]
    if any(path.is_file() and sha256_file(path) != digest for path, digest in judged):
        return ["audit", "report", "gate"]
    earlier = []
    standing = StandingVerdict(verdict.passed, verdict.reasons, verdict.digest())
    if (root / REPORT).is_file() and not is_of_verdict(root / REPORT, standing):
        earlier.append("report")
    try:
        gate = read_answer(root / GATE, GateVerdict)
    except ValueError:
        return earlier
    return [*earlier, *(["gate"] if gate.judged != verdict.judged else [])]


def warn_of_adapter(root: Path, file: Path) -> str | None:
    """What whoever uses a file of data/gguf should hear where it was made of another adapter than lies in data/adapter; else None."""
    if file.resolve().parent != (root / "data/gguf").resolve():
        return None
    records = read_sound_records(root)
    took = {one["path"]: one["sha256"] for one in records.get("gguf", {}).get("inputs", {}).values()}
    wrote = {one["path"]: one["sha256"] for one in records.get("train", {}).get("outputs", {}).values()}
    if ADAPTER not in took or ADAPTER not in wrote or took[ADAPTER] == wrote[ADAPTER]:
        return None
    return f"by the records {file.name} is of another adapter than lies in {ADAPTER}: `dvc repro gguf` exports that one"
