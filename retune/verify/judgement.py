"""Verdict, provenance, gate, page, card and execution records against what they say they are of."""

from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

from retune.execution import execution_path, read_execution
from retune.verdict import AUDIT, GATE, StandingVerdict, find_others, is_of_verdict
from retune.verify.fields import name_differences, read_object
from retune.verify.kinds import Difference, restore
from stages.contracts.audit import PROVENANCE, Answer, AuditVerdict, GateVerdict, read_answer
from stages.dvc_lock.lock import LockedStage
from stages.dvc_lock.records import compare_asked

CHAIN = AUDIT.parent / PROVENANCE
REPORT = Path("data/report")


def compare_judgement(root: Path, records: Mapping[str, Any]) -> Iterator[Difference]:
    """The files that are there; what is missing is told where outputs are compared."""
    if (root / CHAIN).is_file():
        yield from compare_provenance(root, records)
    gate = yield from read_said(root, GATE, GateVerdict, "gate")
    verdict = yield from read_said(root, AUDIT, AuditVerdict, "audit")
    if verdict is None:
        return
    for other in find_others(root, verdict.judged):
        yield differ(AUDIT, f"is of other figures: {other}", "judged", "audit")
    for key in ("passed", "reasons", "judged") if gate is not None else ():
        if getattr(gate, key) != getattr(verdict, key):
            yield differ(GATE, f"is not of the verdict in {AUDIT}", key, "gate")
    standing = StandingVerdict(verdict.passed, verdict.reasons, verdict.digest())
    for page in (REPORT / "index.html", REPORT / "README.md"):
        if (root / page).is_file() and not is_of_verdict(root / page, standing):
            yield differ(page, f"is not of the verdict in {AUDIT}", "", "report")


def read_said(root: Path, path: Path, kind: type[Answer], stage: str) -> Generator[Difference, None, Answer | None]:
    """What verdict.json or gate.json says; None, and a difference, where it says nothing that can be believed."""
    if not (root / path).is_file():
        return None
    try:
        return read_answer(root / path, kind)
    except ValueError as error:
        yield differ(path, str(error), "", stage)
        return None


def compare_provenance(root: Path, records: Mapping[str, Any]) -> Iterator[Difference]:
    """The audit's copy of the records against the records."""
    try:
        found = read_object((root / CHAIN).read_bytes())
    except OSError:
        return  # said where the files are hashed
    if found is None:
        yield differ(CHAIN, "is cut off, or no JSON object", "", "audit")
        return
    for field, words in name_differences(records, found.get("chain"), ("the records have", "it has")):
        yield differ(CHAIN, words, f"chain.{field}" if field else "chain", "audit")


def differ(path: Path, says: str, field: str, stage: str) -> Difference:
    """One file that is not of the others."""
    return Difference(
        "verdict_contradicts", path.as_posix(), says, field, stage, f"`dvc repro {stage}`, or {restore(stage)}"
    )


def compare_executions(root: Path, locked: Mapping[str, LockedStage]) -> Iterator[Difference]:
    """The execution records that are there, against the records of the same runs; of stages without a record, against dvc.lock's params."""
    for stage, entry in locked.items():
        path = execution_path(stage).as_posix()
        if not (root / path).is_file():
            continue
        for fault in read_execution(root, stage, {})[1]:  # dvc.lock's hashes are held against all outputs elsewhere
            yield Difference("execution_contradicts", path, fault.says, stage=stage, remedy=restore(stage))
        for one in compare_asked(root, entry):
            remedy = f"`dvc repro --force --single-item {stage}`"
            yield Difference("record_params", path, one.says, one.field, stage, remedy)
