"""What dvc.lock has of a run before is no contradiction: after a training that failed, and after a gate that refused."""

from pathlib import Path

import pytest

from retune.verify.inputs import chain
from retune.verify.lock_form import compare_params
from retune.verify.locked import LockedPath
from retune.verify.project import leave_refusal
from stages.core.files import write_json
from stages.dvc_lock.lock import LockedStage
from tests.verdict_files import write_verdict


def compare_steps(check: int, train: int, now: int) -> tuple[list[str], list[str]]:
    """(what is found, what is noted) of train.steps by check's entry, by that of train, and in params.yaml."""
    locked = {
        stage: LockedStage(stage, "", {"train": {"steps": steps}}, {}, {})
        for stage, steps in (("check", check), ("train", train))
    }
    notes: list[str] = []
    found = compare_params({stage: {} for stage in locked}, locked, {"train": {"steps": now}}, notes)
    return [f"{one.stage} {one.kind} {one.field}" for one in found], notes


def test_training_that_failed_since_the_edit_is_noted_and_check_accused_of_nothing() -> None:
    noted = ["train has not run since params of it changed that check has seen"]
    assert compare_steps(40, 60, 40) == (["train params_changed train.steps"], noted)
    assert compare_steps(60, 60, 60) == ([], [])
    assert compare_steps(60, 60, 40) == (["train params_changed train.steps"], [])


def test_param_that_is_neither_the_runs_nor_the_files_is_still_named() -> None:
    assert compare_steps(99, 60, 60) == (["check params_changed train.steps"], [])


@pytest.mark.parametrize("path", ["data/audit", "data/report"])
def test_gate_that_refused_has_read_what_the_lock_does_not_know(tmp_path: Path, path: str) -> None:
    found = [chain(LockedPath("gate", path, "0" * 32, None), "gate read another one")]
    other = chain(LockedPath("report", path, "0" * 32, None), "report read another one")
    write_json(tmp_path / "data/evaluation/metrics.json", {})
    write_verdict(tmp_path, passed=False)
    notes: list[str] = []
    assert leave_refusal(tmp_path, [*found, other], notes) == [other]
    assert len(notes) == 1
    write_verdict(tmp_path, passed=True)
    assert leave_refusal(tmp_path, found, []) == found
