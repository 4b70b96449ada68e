"""Verdict, provenance, gate and execution records against what they say they are of."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from retune.execution import execution_path, read_execution
from retune.verify.fields import name_differences, read_object
from retune.verify.kinds import Difference, restore
from stages.contracts.audit import PROVENANCE, VERDICT

AUDIT, GATE = "data/audit", "data/gate.json"


def compare_judgement(root: Path, records: Mapping[str, Any]) -> Iterator[Difference]:
    """The files that are there; what is missing is told where outputs are compared."""
    found: dict[str, dict[str, Any]] = {}
    for path, stage in ((f"{AUDIT}/{VERDICT}", "audit"), (f"{AUDIT}/{PROVENANCE}", "audit"), (GATE, "gate")):
        said = read_said(root / path)
        if said is not None:
            found[path] = said
        elif (root / path).is_file():
            yield Difference("verdict_contradicts", path, "is cut off, or no JSON object", "", stage, restore(stage))
    verdict, provenance, gate = found.get(f"{AUDIT}/{VERDICT}"), found.get(f"{AUDIT}/{PROVENANCE}"), found.get(GATE)
    if verdict is not None:
        yield from compare_verdict(verdict)
    if provenance is not None:
        chain = provenance.get("chain")
        for field, words in name_differences(records, chain, ("the records have", "provenance has")):
            yield Difference(
                "verdict_contradicts",
                f"{AUDIT}/{PROVENANCE}",
                words,
                f"chain.{field}",
                "audit",
                f"`dvc repro audit`, or {restore('audit')}",
            )
    if verdict is not None and gate is not None:
        for key in ("passed", "reasons"):
            if gate.get(key) != verdict.get(key):
                yield Difference(
                    "verdict_contradicts",
                    GATE,
                    "is not of the verdict in data/audit",
                    key,
                    "gate",
                    f"`dvc repro gate`, or {restore('gate')}",
                )


def read_said(file: Path) -> dict[str, Any] | None:
    """A file's JSON object; None where there is none."""
    try:
        return read_object(file.read_bytes())
    except OSError:
        return None


def compare_verdict(verdict: Mapping[str, Any]) -> Iterator[Difference]:
    """A verdict is what its checks come to."""
    path, checks = f"{AUDIT}/{VERDICT}", verdict.get("checks")
    if not isinstance(checks, list) or not all(isinstance(check, dict) for check in checks):
        yield Difference("verdict_contradicts", path, "has no checks", "checks", "audit", restore("audit"))
        return
    failed = [f"{check.get('name')}: {check.get('says')}" for check in checks if check.get("passed") is False]
    for key, wanted in (("passed", not failed), ("reasons", failed)):
        if verdict.get(key) != wanted:
            yield Difference(
                "verdict_contradicts", path, "is not what its checks come to", key, "audit", restore("audit")
            )


def compare_executions(root: Path, stages: list[str]) -> Iterator[Difference]:
    """The execution records that are there, against the records of the same runs."""
    for stage in stages:
        path = execution_path(stage).as_posix()
        if (root / path).is_file():
            for fault in read_execution(root, stage)[1]:
                yield Difference("execution_contradicts", path, fault.says, stage=stage, remedy=restore(stage))
