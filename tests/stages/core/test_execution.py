"""The execution record beside a stage's command, in a project of its own."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from stages.core.asked_and_ran import Observation
from stages.core.execution import NOTES, guard_notes, note_choice, note_figures, note_ran, note_unknown
from stages.core.files import sha256_file
from tests.project import ROOT

RUNTIME = """
runtime: {device: cpu, workers: 1, processes: null, sharding: none, micro_batch: 2, memory_limit_gb: null, save_steps: null, report_to: none, gradient_checkpointing: 'off', evaluation_batch: 4, log_level: info}
"""
STAGE = """
from pathlib import Path
from stages.core.execution import note_choice, note_figures, note_ran, note_unknown
from stages.core.runner import Input, Output, run
from stages.core.errors import Refusal, StageError
from stages.core.params import Params, Runtime

class CopyParams(Params):
    times: int
    rate: float
    kind: str

def copy(source: Input, target: Output, params: CopyParams, runtime: Runtime) -> None:
    text = source.read_text() * params.times
    target.write_text(text)
    note_figures(device="cpu", characters=len(text))
    note_ran({"copy.times": len(text) // len(source.read_text())})
    note_ran({"copy.rate": 0.5}, "this machine knows no other")
    note_choice({"copy.kind": "fast"}, "there is room")
    note_choice({"runtime.workers": 1}, "one a core")
    END

run(copy, runtime_keys=("workers",))
"""
FLAGS = ["--source", "source", "--target", "target", "--execution", "execution/copy.json"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text("copy: {times: 2, rate: 2e-4, kind: auto}\n" + RUNTIME)
    (tmp_path / "source").write_text("one")
    return tmp_path


def run(project: Path, *flags: str, end: str = "", check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run(
        [sys.executable, "-c", STAGE.replace("END", end or "pass"), *FLAGS, *flags],
        cwd=project,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not check or ended.returncode == 0, ended.stderr
    return ended


def read(project: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((project / "execution/copy.json").read_text())
    return found


def test_execution_record_tells_when_where_and_how_and_is_bound_to_the_record(project: Path) -> None:
    began = time.time()
    run(project, "--record", "records/copy.json")
    found = read(project)
    assert (found["stage"], found["version"]) == ("copy", 1)
    assert found["record"] == {"path": "records/copy.json", "sha256": sha256_file(project / "records/copy.json")}
    record = json.loads((project / "records/copy.json").read_text())
    assert found["outputs"] == {"target": record["outputs"]["target"]["sha256"]}
    assert found["started_at"].endswith("+00:00")
    assert 0 < found["wall_seconds"] < time.time() - began + 1
    assert found["cpu_seconds"] > 0
    assert found["peak_resident_mib"] > 1
    assert found["figures"] == {"device": "cpu", "characters": 6}
    assert found["torch"] is None
    assert found["source"]["why"] == "the project's folder is not the top of a git checkout"
    assert set(found["environment_locks"].values()) == {None}


def test_execution_record_has_each_param_with_what_was_seen_of_it(project: Path) -> None:
    run(project)
    assert read(project)["asked_and_ran"] == {
        "copy.times": {"asked": 2, "ran": 2, "state": "equal", "why": ""},
        "copy.rate": {"asked": 2e-4, "ran": 0.5, "state": "different", "why": "this machine knows no other"},
        "copy.kind": {"asked": "auto", "ran": "fast", "state": "chosen", "why": "there is room"},
        "runtime.workers": {"asked": 1, "ran": 1, "state": "equal", "why": ""},
        "runtime.log_level": {"asked": "info", "ran": "info", "state": "equal", "why": ""},
    }


def test_locks_of_the_environment_and_the_checkout_are_in_it(project: Path) -> None:
    (project / "requirements.lock").write_text("a==1\n")
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    run(project)
    found = read(project)
    assert found["environment_locks"]["requirements.lock"] == sha256_file(project / "requirements.lock")
    assert found["source"]["why"] == "nothing is committed yet"
    assert "params.yaml" in found["source"]["dirty"]


@pytest.mark.parametrize(
    "end", ['raise StageError("no")', 'raise RuntimeError("no")', "source.write_text('two')", "raise KeyboardInterrupt"]
)
def test_stage_that_fails_leaves_none_and_that_of_the_files_that_stay_stays(project: Path, end: str) -> None:
    assert run(project, end=end, check=False).returncode != 0
    assert not (project / "execution").exists()
    (project / "source").write_text("one")
    run(project, "--record", "records/copy.json")
    before = read(project)
    run(project, "--record", "records/copy.json", end=end, check=False)
    assert read(project) == before
    assert before["record"]["sha256"] == sha256_file(project / "records/copy.json")


def test_stage_that_refuses_has_one_since_its_outputs_count(project: Path) -> None:
    assert run(project, end='raise Refusal("no")', check=False).returncode == 1
    assert read(project)["figures"]["characters"] == 6


def test_runs_that_differ_in_execution_alone_have_the_same_record_and_output(project: Path) -> None:
    run(project, "--record", "r.json")
    first = [(project / name).read_bytes() for name in ("r.json", "target", "execution/copy.json")]
    (project / "params.yaml").write_text((project / "params.yaml").read_text().replace("workers: 1", "workers: 2"))
    run(project, "--record", "r.json", OMP_NUM_THREADS="1")
    again = [(project / name).read_bytes() for name in ("r.json", "target", "execution/copy.json")]
    assert first[:2] == again[:2]
    assert first[2] != again[2]
    assert read(project)["asked_and_ran"]["runtime.workers"]["state"] == "different"


def test_stage_without_the_flag_writes_none(project: Path) -> None:
    command = [sys.executable, "-c", STAGE.replace("END", "pass"), *FLAGS[:4]]
    subprocess.run(command, cwd=project, env={"PYTHONPATH": str(ROOT), "PATH": ""}, check=True)
    assert sorted(path.name for path in project.iterdir()) == [".retune", "params.yaml", "source", "target"]


def test_notes_are_kept_in_this_process_until_they_are_written(noted: dict[str, Observation]) -> None:
    note_figures(device="cpu")
    note_ran({"a.b": 1}, "r")
    note_choice({"a.c": 2}, "s")
    note_unknown("t", "a.d", "a.e")
    assert NOTES.figures == {"device": "cpu"}
    assert [(key, one.chosen, one.known) for key, one in noted.items()] == [
        ("a.b", False, True),
        ("a.c", True, True),
        ("a.d", False, False),
        ("a.e", False, False),
    ]


def test_look_at_what_ran_that_fails_fails_no_stage_and_leaves_the_rest_unknown(
    noted: dict[str, Observation], caplog: pytest.LogCaptureFixture
) -> None:
    @guard_notes
    def look(optimizer: Any) -> int:
        note_ran({"a.b": 1})
        note_ran({"a.c": optimizer.no_longer_there})
        return 7

    assert look(object()) is None
    assert list(noted) == ["a.b"]
    assert caplog.messages == ["execution record: look could not look at all of it (AttributeError)"]


def test_what_is_no_json_is_written_as_text(project: Path) -> None:
    run(project, end='note_figures(speed=float("inf"), kind={Path("x")}); note_ran({"copy.kind": Path("y")})')
    found = read(project)
    assert (found["figures"]["speed"], found["figures"]["kind"]) == ("inf", "{PosixPath('x')}")
    assert found["asked_and_ran"]["copy.kind"]["ran"] == "y"
