"""One training shared by several processes: real ones, on the loopback with gloo, Unsloth's patches live."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from stages.contracts import adapter as contract
from stages.contracts.tokens import TRAIN as TRAIN_FILE
from stages.contracts.tokens import read_tokens
from stages.core.errors import StageError
from stages.core.params import Runtime
from stages.training.distributed.process_group import ProcessGroup
from stages.training.distributed.processes import process_count
from stages.training.distributed.torchrun import NAMES, read_launch
from stages.training.params import TrainParams
from stages.training.task import plan_steps
from stages.training.token_rows import TokenRows
from tests.adapter_files import judge_adapter
from tests.project import ROOT
from tests.stages.conftest import run_probe
from tests.stages.test_train_resume import finish, saved, start
from tests.stages.training.distributed.support.processes_probe import LAYOUTS
from tests.stages.training.support.tiny import RUNTIME, TRAIN

SETTINGS = ["layout=flattened", "conversations_per_step=7", "logging_steps=1"]


def steps_of(folder: Path) -> list[contract.Step]:
    return [json.loads(line) for line in (folder / contract.STEPS).read_text().splitlines()]


def compare(one: Path, other: Path) -> None:
    """Found, relative, over 16 steps in which the loss falls from 6.4 to 1.6: 3e-7 (losses), 2e-6 (gradient norm), and of weights up to
    0.18 a difference of 2e-6."""
    from safetensors.numpy import load_file

    for left, right in zip(steps_of(one), steps_of(other), strict=True):
        assert (left["step"], left["tokens"], left["learning_rate"]) == (
            right["step"],
            right["tokens"],
            right["learning_rate"],
        )
        assert math.isclose(left["loss"], right["loss"], rel_tol=5e-6), left["step"]
        assert left["grad_norm"] is not None
        assert right["grad_norm"] is not None
        assert math.isclose(left["grad_norm"], right["grad_norm"], rel_tol=5e-5), left["step"]
        assert (left["eval_loss"] is None) == (right["eval_loss"] is None)
        if left["eval_loss"] is not None and right["eval_loss"] is not None:
            assert math.isclose(left["eval_loss"], right["eval_loss"], rel_tol=5e-6), left["step"]
    first, second = (load_file(folder / contract.WEIGHTS) for folder in (one, other))
    assert first.keys() == second.keys()
    for name in first:
        assert abs(first[name] - second[name]).max() < 2e-5, name
    assert (one / contract.LEDGER).read_bytes() == (other / contract.LEDGER).read_bytes()
    tokens = next(folder / "tokens" for folder in other.parents if (folder / "tokens").is_dir())
    check = judge_adapter(other, tokens)
    assert check["passed"], check["says"]
    assert check == judge_adapter(one, tokens)


@pytest.fixture(scope="module")
def shared(tiny_base: Path) -> Path:
    """`tiny_base` after processes_probe.py."""
    run_probe(tiny_base, "distributed.support.processes_probe")
    return tiny_base


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_processes_learn_what_one_does(shared: Path, layout: str) -> None:
    said = json.loads((shared / "processes_probe.json").read_text())
    assert said[f"{layout}-1"]["said"] == said[f"{layout}-2"]["said"] == ""
    one, two = shared / "processes" / f"{layout}-1", shared / "processes" / f"{layout}-2"
    compare(one, two)
    assert steps_of(two)[-1]["loss"] < steps_of(two)[0]["loss"] / 3
    assert steps_of(two)[-1]["eval_loss"] is not None


@pytest.mark.slow
def test_four_processes_learn_what_one_does(shared: Path) -> None:
    said = json.loads((shared / "processes_probe.json").read_text())
    assert said["flattened-4"]["said"] == ""
    compare(shared / "processes" / "flattened-1", shared / "processes" / "flattened-4")


@pytest.mark.slow
def test_loss_that_is_no_number_in_two_processes_has_the_error_of_one(shared: Path) -> None:
    said = json.loads((shared / "processes_probe.json").read_text())["wild"]["said"]
    assert said.startswith("step ")
    assert "train.learning_rate" in said
    assert not (shared / "processes" / "wild").exists()


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_conversation_is_trained_once_an_epoch_over_the_processes(
    tiny_base: Path, layout: str, ranks: int
) -> None:
    from stages.training.step_log import StepLog
    from stages.training.work import Work

    rows = TokenRows(read_tokens(tiny_base / "tokens" / TRAIN_FILE))
    params = TrainParams.model_validate({**TRAIN, **LAYOUTS[layout], "steps": None, "epochs": 1.0})
    plan = plan_steps(rows, params)
    works = []
    for rank in range(ranks):
        group = ProcessGroup()
        group.rank, group.size = rank, ranks
        watch = StepLog(plan, rows, logging_steps=1, eval_steps=None, patience=None)
        no: Any = None
        works.append(
            Work(rows, None, 1, params.layout, 2, 4, params.pack_length, watch, no, keep_best=False, group=group)
        )
    seen: list[int] = []
    for step in range(1, len(plan.steps) + 1):
        batches = [batch for work in works for batch in work.batches(step)]
        assert sum(batch.labelled for batch in batches) == works[-1].count_labelled(step)
        assert sorted(row for batch in batches for row in batch.rows) == sorted(works[0].step_log.rows_of(step))
        seen += [row for batch in batches for row in batch.rows]
    assert sorted(seen) == list(range(24))


@pytest.mark.slow
def test_two_processes_draw_different_noise() -> None:
    import torch

    from stages.training.trainer_state import draw_anew

    drawn = []
    for rank in (1, 2, 1):
        draw_anew(3407, 4, rank)
        drawn.append(float(torch.rand(1)))
    assert drawn[0] == drawn[2] != drawn[1]


def gone(pid: int, seconds: float) -> bool:
    """Whether a process is no more, or no more than a zombie that nobody has asked for."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


def others(said: str) -> list[int]:
    """The processes of a training beside the first, as the probe names them."""
    found = re.search(r"others ([\d ]*)\n", said)
    assert found, said
    return [int(pid) for pid in found[1].split()]


def terminated(process: "subprocess.Popen[str]", after: int) -> tuple[int, str]:
    """Send SIGTERM when a step has ended."""
    said = ""
    for line in process.stdout or ():
        said += line
        if line == f"train: ended {after}\n":
            process.send_signal(signal.SIGTERM)
    return process.wait(timeout=60), said


@pytest.fixture(scope="module")
def told(world: Path) -> dict[str, Any]:
    """What happened in a chain of trainings with two processes and with one, each after the one before."""
    found: dict[str, Any] = {}
    alone = start(world / "alone", "../whole", *SETTINGS, "--processes", "1")
    two, one = ("--processes", "2"), ("--processes", "1")
    found["one of two killed"] = finish(start(world, "adapter", *SETTINGS, *two, "--kill-other", "5"))
    found["ended at"] = time.time()
    found["left"] = [pid for pid in others(found["one of two killed"][1]) if not gone(pid, 0.5)]
    found["generators"] = next((world / ".retune" / "checkpoints").glob("*/step-00000004/state.pt")).read_bytes()
    found["one after two"] = terminated(start(world, "adapter", *SETTINGS, *one, "--slow", "0.3"), 7)
    found["two after one"] = terminated(start(world, "adapter", *SETTINGS, *two, "--slow", "0.3"), 10)
    found["left after SIGTERM"] = [pid for pid in others(found["two after one"][1]) if not gone(pid, 0.5)]
    found["saved by SIGTERM"] = saved(world)[-1]
    found["first of two killed"] = finish(start(world, "adapter", *SETTINGS, *two, "--kill-after", "14"))
    found["left by the first"] = [pid for pid in others(found["first of two killed"][1]) if not gone(pid, 10)]
    found["end"] = finish(start(world, "adapter", *SETTINGS, *one))
    found["uninterrupted"] = finish(alone)
    return found


@pytest.mark.slow
def test_lost_process_ends_the_training_with_its_name_and_leaves_none(told: dict[str, Any]) -> None:
    status, said = told["one of two killed"]
    assert status == 1
    assert "process 1 of 2 (counted from 0) was ended by SIGKILL" in said
    assert "It said last:\n  " in said
    killed = re.search(r"killing at ([\d.]+)", said)
    assert killed
    assert told["ended at"] - float(killed[1]) < 60
    assert len(others(said)) == 1
    assert told["left"] == []


@pytest.mark.slow
def test_checkpoint_of_two_processes_has_the_generators_of_both(told: dict[str, Any]) -> None:
    import io

    import torch

    one, two = torch.load(io.BytesIO(told["generators"]), weights_only=True)["random"]
    assert not torch.equal(one["torch"], two["torch"])


@pytest.mark.slow
def test_number_of_processes_may_change_from_one_resumption_to_the_next(world: Path, told: dict[str, Any]) -> None:
    assert "resumed after step 4 of 16" in told["one after two"][1]
    assert others(told["one after two"][1]) == []
    assert re.search(r"resumed after step [89] of 16", told["two after one"][1])
    assert told["end"][0] == told["uninterrupted"][0] == 0, told["end"][1]
    compare(world / "whole", world / "adapter")


@pytest.mark.slow
def test_sigterm_ends_all_processes_after_a_save(told: dict[str, Any]) -> None:
    status, said = told["two after one"]
    assert status == 1
    stopped = re.search(r"stopped by SIGTERM after step (\d+), which is saved", said)
    assert stopped, said
    assert 11 <= int(stopped[1]) < 14
    assert told["saved by SIGTERM"] == f"step-{int(stopped[1]):08d}"
    assert f"resumed after step {stopped[1]} of 16" in told["first of two killed"][1]
    assert len(others(said)) == 1
    assert told["left after SIGTERM"] == []


@pytest.mark.slow
def test_processes_die_with_the_first(told: dict[str, Any]) -> None:
    status, said = told["first of two killed"]
    assert status == -signal.SIGKILL
    assert len(others(said)) == 1
    assert told["left by the first"] == []


LOST = """
import sys, time
from pathlib import Path
from stages.core.errors import StageError
from stages.training.memory.plan import FittedRuntime
from stages.training.distributed.processes import start_processes
from stages.training.params import TrainParams
from tests.stages.training.support.tiny import RUNTIME, TRAIN

runtime = FittedRuntime.model_validate({**RUNTIME, "kept_layers": None, "loss_rows": 512})
try:
    tokens = Path(sys.argv[2])
    with start_processes(2, [Path("no_base"), tokens, Path("no_first")], TrainParams.model_validate(TRAIN), runtime) as group:
        print("started", flush=True)
        time.sleep(300) if sys.argv[1] == "hang" else group.join(on_gpu=False)
except StageError as error:
    sys.exit(str(error))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "tokens", "status", "said"),
    [
        ("joins", "no_tokens", 1, "no_tokens"),
        ("hang", "no_tokens", 1, "no_tokens"),
        # a refusal of its own, that the first process has not seen
        ("joins", "tokens", 3, "no_base"),
    ],
)
def test_process_lost_while_it_loads_ends_the_first_whatever_it_does(
    tiny_base: Path, tmp_path: Path, first: str, tokens: str, status: int, said: str
) -> None:
    (tmp_path / "tokens").symlink_to(tiny_base / "tokens")
    done = subprocess.run(
        [sys.executable, "-c", LOST, first, tokens],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == "started\n"
    assert f"process 1 of 2 (counted from 0) ended with status {status}" in done.stderr
    assert said in done.stderr


def test_process_count_is_what_runtime_or_torchrun_says_and_one_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert process_count(Runtime.model_validate(RUNTIME)) == 1
    assert process_count(Runtime.model_validate({**RUNTIME, "processes": 3})) == 3
    for name, value in zip(NAMES, ("1", "4", "1", "2", "127.0.0.1", "29500"), strict=True):
        monkeypatch.setitem(os.environ, name, value)
    read_launch.cache_clear()
    try:
        assert process_count(Runtime.model_validate(RUNTIME)) == 4
        assert process_count(Runtime.model_validate({**RUNTIME, "processes": 4})) == 4
        with pytest.raises(StageError, match="torchrun has started 4"):
            process_count(Runtime.model_validate({**RUNTIME, "processes": 3}))
        # Unsloth and accelerate would make groups of their own
        assert not os.environ.keys() & set(NAMES)
    finally:
        read_launch.cache_clear()


def test_half_a_launch_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    read_launch.cache_clear()
    with pytest.raises(StageError, match="not RANK, LOCAL_RANK"):
        read_launch()
    monkeypatch.delitem(os.environ, "WORLD_SIZE")
    assert read_launch() is None
