"""Trainings that really die: by kill -9, while they save, by SIGTERM. One chain of processes, each after the one before."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import ROOT

PROBE = ROOT / "tests/stages/training/support/resume_probe.py"
# 24 rows are 3 steps an epoch: all deaths come in the second epoch or later; the dropout draws random numbers in every step
SETTINGS = ["layout=flattened", "dropout=0.1"]

pytestmark = pytest.mark.slow


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(PROBE), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    said, _ = process.communicate(timeout=300)
    return process.returncode, said


def saved(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / ".retune" / "checkpoints").glob("*/*"))


@pytest.fixture(scope="module")
def told(world: Path) -> dict[str, tuple[int, str]]:
    """{what happened: (exit status, what was said)} of each process, and the checkpoints that it left."""
    found: dict[str, tuple[int, str]] = {}
    alone = start(world / "alone", "../whole", *SETTINGS)
    found["killed while it saved"] = finish(start(world, "adapter", *SETTINGS, "--kill-in-save", "6"))
    found["uninterrupted"] = finish(alone)
    found["uninterrupted, left"] = (0, " ".join(saved(world / "alone")))
    found["killed while it saved, left"] = (0, " ".join(saved(world)))
    found["killed"] = finish(start(world, "adapter", *SETTINGS, "--kill-after", "9"))
    found["killed, left"] = (0, " ".join(saved(world)))
    damaged = next((world / ".retune" / "checkpoints").glob("*/step-00000008/state.pt"))
    damaged.write_bytes(damaged.read_bytes()[:-100])

    # ended by SIGTERM after its 10th step; beside it another one tries
    process = start(world, "adapter", *SETTINGS, "--slow", "0.3")
    said = ""
    for line in process.stdout or ():
        said += line
        if line == "train: ended 7\n":
            found["beside another"] = finish(start(world, "other", *SETTINGS))
            found["pid"] = (process.pid, "")
        if line == "train: ended 10\n":
            process.send_signal(signal.SIGTERM)
    found["terminated"] = (process.wait(timeout=60), said)
    found["terminated, left"] = (0, " ".join(saved(world)))
    found["other inputs"] = finish(start(world, "other", *SETTINGS, "learning_rate=0.02", "--kill-after", "3"))
    found["written"] = finish(start(world, "adapter", *SETTINGS, "--kill-written"))
    shutil.rmtree(world / "adapter")
    found["resumed"] = finish(start(world, "adapter", *SETTINGS))
    found["resumed, left"] = (0, " ".join(saved(world)))
    return found


def test_training_that_died_again_and_again_gives_the_very_same_files(
    world: Path, told: dict[str, tuple[int, str]]
) -> None:
    assert told["uninterrupted"][0] == told["resumed"][0] == 0, told["resumed"][1]
    names = sorted(file.name for file in (world / "whole").iterdir())
    assert names == sorted(file.name for file in (world / "adapter").iterdir())
    assert {"adapter_model.safetensors", "steps.jsonl", "ledger.parquet"} <= set(names)
    for name in names:
        assert (world / "whole" / name).read_bytes() == (world / "adapter" / name).read_bytes(), name


def test_half_written_checkpoint_is_never_seen_and_the_one_before_is_used(told: dict[str, tuple[int, str]]) -> None:
    assert told["killed while it saved"][0] == -signal.SIGKILL
    assert told["killed while it saved, left"][1].split() == [
        ".step-00000006.partial",
        "step-00000002",
        "step-00000004",
    ]
    assert "resumed after step 4 of 16" in told["killed"][1]


def test_two_checkpoints_are_kept_and_the_last_is_used(told: dict[str, tuple[int, str]]) -> None:
    assert told["killed"][0] == -signal.SIGKILL
    assert told["killed, left"][1].split() == ["step-00000006", "step-00000008"]


def test_damaged_checkpoint_is_recognized_and_the_one_before_is_used(told: dict[str, tuple[int, str]]) -> None:
    assert "step-00000008 is not whole" in told["terminated"][1]
    assert "resumed after step 6 of 16" in told["terminated"][1]


def test_second_trainer_in_the_same_scratch_is_refused_and_told_whose_it_is(told: dict[str, tuple[int, str]]) -> None:
    status, said = told["beside another"]
    assert status == 1
    assert f"another training is under way in this project (process {told['pid'][0]})" in said


def test_sigterm_saves_the_step_under_way_and_fails(world: Path, told: dict[str, tuple[int, str]]) -> None:
    status, said = told["terminated"]
    assert status == 1
    stopped = re.search(r"stopped by SIGTERM after step (\d+), which is saved", said)
    assert stopped, said
    step = int(stopped[1])
    assert 11 <= step < 16
    assert f"ended {step}\n" in said
    assert f"ended {step + 1}\n" not in said
    assert told["terminated, left"][1].split()[-1] == f"step-{step:08d}"
    assert f"resumed after step {step} of 16" in told["written"][1]
    assert not list(world.glob(".*.partial"))


def test_training_that_ended_is_not_lost_until_its_outputs_are_in_place(told: dict[str, tuple[int, str]]) -> None:
    assert told["written"][0] == -signal.SIGKILL
    assert "ended 16\n" in told["written"][1]
    assert "resumed after step 16 of 16" in told["resumed"][1]
    assert "ended" not in told["resumed"][1].split("resumed after step 16 of 16")[1]


def test_checkpoint_of_other_inputs_is_never_used(told: dict[str, tuple[int, str]]) -> None:
    said = told["other inputs"][1]
    assert "resumed" not in said
    assert "ended 1\n" in said


def test_checkpoints_are_removed_when_a_training_has_succeeded(told: dict[str, tuple[int, str]]) -> None:
    assert told["uninterrupted, left"][1] == ""
    # those of the other inputs, which did not end well, stay
    assert told["resumed, left"][1].split() == ["step-00000002"]
