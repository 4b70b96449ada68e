from pathlib import Path
from typing import Any

import pytest

from retune.execution import (
    describe_all,
    describe_execution,
    digest_output,
    format_seconds,
    format_time,
    read_execution,
)
from stages.core.execution import VERSION
from stages.core.files import read_json, write_json
from tests.execution_records import put_execution
from tests.locks import write_lock

GIT = {
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "dirty": ["a.py", "b\x1b[31m"],
    "dirty_count": 2,
    "why": "",
}
DIFFERENT = {"asked": "adamw_8bit", "ran": "adamw\n", "state": "different", "why": "a CPU"}
KNOWN = {
    "train.seed": {"asked": 1, "ran": 1, "state": "equal", "why": ""},
    "train.dtype": {"asked": "auto", "ran": "bfloat16", "state": "chosen", "why": "x"},
    "train.keep": {"asked": "last", "ran": None, "state": "unknown", "why": "y"},
    "train.optimizer": DIFFERENT,
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_json(tmp_path / "data/records/train.json", {"stage": "train"})
    return tmp_path


def put(project: Path, stage: str = "train", **changed: Any) -> Path:
    return put_execution(project, stage, **changed)


def faults_of(project: Path, stage: str = "train") -> list[str]:
    return [fault.kind for fault in read_execution(project, stage)[1]]


def test_record_of_the_run_that_the_files_are_of_has_no_fault(project: Path) -> None:
    put(project, source=GIT, asked_and_ran=KNOWN, started_at="2026-12-01T04:12:05+01:00", wall_seconds=61.26)
    record, faults = read_execution(project, "train")
    assert record is not None
    assert faults == []
    first, *differences = describe_execution(project, "train")
    assert "2026-12-01 03:12 UTC, 61.3 s, commit 0123456789ab and 2 changed or new files (a.py, b\\x1b[31m)" in first
    assert differences == ['train.optimizer: asked "adamw_8bit", ran "adamw\\n" (a CPU)']


def test_gpu_is_named_where_the_stage_used_it(project: Path) -> None:
    put(project, figures={"device": "cuda"}, gpu={"driver": "580.1", "names": ["NVIDIA H200"]})
    assert describe_execution(project, "train")[0].startswith("NVIDIA H200, ")
    put(project, figures={}, gpu={"driver": "580.1", "names": ["NVIDIA H200"]})
    assert " (CPU), " in describe_execution(project, "train")[0]


def test_record_that_is_missing_is_said(project: Path) -> None:
    assert faults_of(project) == ["missing"]
    assert describe_execution(project, "train") == ["data/execution/train.json is not there"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_record_that_is_cut_off_is_said_wherever_it_is_cut(project: Path, share: float) -> None:
    path = put(project)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert faults_of(project) == ["cut off"]
    assert len(describe_execution(project, "train")) == 1


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"[" * 100_000, b"null", b"[]", b"7", b'"x"', b"{}", b"NaN", b'{"version": true}']
)
def test_what_is_no_execution_record_is_said(project: Path, content: bytes) -> None:
    put(project).write_bytes(content)
    assert faults_of(project) == ["cut off"]
    put(project).unlink()
    (project / "data/execution/train.json").mkdir()
    assert faults_of(project) == ["missing"]


def test_every_field_that_is_taken_away_or_of_another_type_is_said(project: Path) -> None:
    path = put(project, source=GIT, asked_and_ran=KNOWN)
    whole = read_json(path)
    for key in whole:
        write_json(path, {name: value for name, value in whole.items() if name != key})
        assert faults_of(project) == ["cut off"], key
        write_json(path, {**whole, key: ["x"]})
        assert faults_of(project) == ["cut off"], key
    write_json(path, {**whole, "asked_and_ran": {"train.seed": {**DIFFERENT, "state": "equal enough"}}})
    assert faults_of(project) == ["cut off"]


def test_field_that_is_unknown_is_said_and_the_rest_is_read(project: Path) -> None:
    path = put(project, more={"a": 1})
    record, faults = read_execution(project, "train")
    assert record is not None
    assert [fault.kind for fault in faults] == ["unknown field"]
    found = read_json(path)
    del found["more"]
    write_json(path, {**found, "processor": {**found["processor"], "\x1b[2Jspeed": 1}})
    assert faults_of(project) == ["unknown field"]
    assert "\x1b" not in "".join(describe_execution(project, "train"))


def test_record_of_a_newer_version_is_not_guessed_at(project: Path) -> None:
    put(project, version=VERSION + 1, more=1)
    assert faults_of(project) == ["newer version"]


def test_record_of_another_stage_or_another_run_tells_nothing_of_these_files(project: Path) -> None:
    write_json(project / "data/records/merge.json", {"stage": "merge"})
    put(project)
    (project / "data/execution/train.json").rename(project / "data/execution/merge.json")
    assert faults_of(project, "merge") == ["other stage"]
    assert len(describe_execution(project, "merge")) == 1
    put(project)
    write_json(project / "data/records/train.json", {"stage": "train", "seed": 2})
    assert faults_of(project) == ["other run"]
    assert len(describe_execution(project, "train")) == 1
    (project / "data/records/train.json").unlink()
    assert faults_of(project) == ["other run"]


def test_record_of_a_stage_without_one_is_bound_to_its_outputs(project: Path) -> None:
    write_json(project / "data/audit/verdict.json", {"passed": True})
    sha256 = digest_output(project, "data/audit")
    put(project, "audit", outputs={"data/audit": sha256})
    assert faults_of(project, "audit") == []
    write_json(project / "data/audit/verdict.json", {"passed": False})
    assert faults_of(project, "audit") == ["other run"]
    put(project, "audit", outputs={"../../etc": "0"})
    assert faults_of(project, "audit") == ["other run"]


def test_table_tells_what_is_sound_and_what_is_not(project: Path) -> None:
    put(project, asked_and_ran=KNOWN, wall_seconds=30.0)
    write_json(project / "data/records/merge.json", {"stage": "merge"})
    told = describe_all(project, ["merge", "train"])
    assert [name for name, _ in told] == ["trained on", "time", "not as asked", "note"]
    assert dict(told)["time"] == "30.0 s in 1 stage"
    assert "data/execution/merge.json is not there" in dict(told)["note"]
    assert describe_all(project, []) == []


def test_times_are_written_for_the_eye() -> None:
    assert [format_seconds(one) for one in (0.04, 89.94, 90, 3_600, 5_400, 36_000)] == [
        "0.0 s",
        "89.9 s",
        "2 min",
        "60 min",
        "1 h 30 min",
        "10 h 0 min",
    ]
    assert format_time("yesterday") == "yesterday"
    assert format_time("0001-01-01T00:00:00+14:00") == "0001-01-01T00:00:00+14:00"


def test_number_that_is_none_is_said(project: Path) -> None:
    path = put(project)
    path.write_text(path.read_text().replace('"wall_seconds": ', '"wall_seconds": NaN, "was": '))
    assert faults_of(project) == ["cut off"]


def test_time_of_a_resumed_training_is_told_as_that_of_its_rest(project: Path) -> None:
    put(project, figures={"resumed_after_step": 8}, wall_seconds=9.2)
    assert "9.2 s after step 8, where it went on from a checkpoint" in describe_execution(project, "train")[0]
    put(project, figures={"resumed_after_step": 0}, wall_seconds=9.2)
    assert "checkpoint" not in describe_execution(project, "train")[0]


def test_record_that_dvc_lock_names_otherwise_tells_nothing_of_the_run(project: Path) -> None:
    put(project, source=GIT)
    outs = ["data/records/train.json", "data/execution/train.json"]
    write_lock(project, {"train": outs})
    assert faults_of(project) == []
    put(project, source={**GIT, "commit": "f" * 40})
    assert faults_of(project) == ["edited"]
    assert describe_execution(project, "train") == [
        "data/execution/train.json is not what dvc.lock names: it was edited, or is of another run"
    ]
    assert "ffff" not in str(describe_all(project, ["train"]))
    (project / "dvc.lock").unlink()
    assert faults_of(project) == []


def test_record_of_a_run_that_dvc_lock_does_not_know_is_told(project: Path) -> None:
    put(project, source=GIT)
    write_lock(project, {"train": ["data/records/train.json", "data/execution/train.json"]})
    write_json(project / "data/records/train.json", {"stage": "train", "again": True})
    put(project, source=GIT, wall_seconds=1.0)
    assert faults_of(project) == []
