"""One training over two hosts, as torchrun starts it: two agents on the loopback, each with a working folder of its own as two hosts have."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.project import ROOT
from tests.stages.test_train_processes import compare, gone
from tests.stages.training.support.tiny import RUNTIME, TRAIN

FLAGS = [
    "--base",
    "data/base",
    "--tokens",
    "data/tokens",
    "--custom_adapter",
    "data/custom_adapter",
    "--adapter",
    "data/adapter",
]
PARAMS = {**TRAIN, "layout": "flattened", "conversations_per_step": 7, "logging_steps": 1}


def make_host(folder: Path, inputs: Path, **runtime: Any) -> None:
    """A project's folder as far as the train stage looks at it."""
    (folder / "data" / "custom_adapter").mkdir(parents=True)
    for name in ("base", "tokens"):
        (folder / "data" / name).symlink_to(inputs / name)
    values = {"train": PARAMS, "runtime": {**RUNTIME, "save_steps": 2, **runtime}}
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(values, file)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Run:
    """What became of a launch."""

    statuses: list[int]
    """Of the agents."""
    said: list[str]
    seconds_after: float
    """From what was done to them to the end of the last one."""
    pids: dict[int, int] = field(default_factory=dict)
    """{rank: process}."""


def start(folders: list[Path], *options: str, slow: float = 0.0) -> "list[subprocess.Popen[str]]":
    """An agent for each folder, the first of which has process 0."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PROBE_SLOW": str(slow), "OMP_NUM_THREADS": "1"}
    port, found = free_port(), []
    for number, folder in enumerate(folders):
        where = [
            "--nnodes",
            str(len(folders)),
            "--node-rank",
            str(number),
            "--master-addr",
            "127.0.0.1",
            "--master-port",
            str(port),
        ]
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            *where,
            *options,
            "-m",
            "tests.stages.training.distributed.support.hosts_probe",
            # the others learn from process 0 what there is to do
            *([] if number else FLAGS),
        ]
        with (folder / f"said{number}").open("w") as said:
            found.append(
                subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=subprocess.STDOUT, text=True)
            )
    return found


def launch(
    folders: list[Path], *options: str, after: int = 0, do: Callable[[Any, dict[int, int]], None] | None = None
) -> Run:
    """Start a training; when both processes have ended step `after`, `do` something to the agents or to {rank: process}."""
    agents = start(folders, *options, slow=0.25 if do else 0.0)
    logs = [folder / f"said{number}" for number, folder in enumerate(folders)]
    pids: dict[int, int] = {}
    until, done = time.monotonic() + 150, time.monotonic()
    try:
        while any(agent.poll() is None for agent in agents) and time.monotonic() < until:
            time.sleep(0.05)
            if do is None:
                continue
            said = "".join(log.read_text() for log in logs)
            pids = {int(rank): int(pid) for rank, pid in re.findall(rf"process (\d+) \((\d+)\) ended {after}\n", said)}
            if len(pids) == len(folders):
                do(agents, pids)
                do, done = None, time.monotonic()
        ended = time.monotonic()
    finally:
        for agent in agents:
            agent.kill() if agent.poll() is None else None
    return Run([agent.wait() for agent in agents], [log.read_text() for log in logs], ended - done, pids)


@pytest.fixture(scope="module")
def told(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A chain of launches, each after the one before, and the same training by one process."""
    root = tmp_path_factory.mktemp("hosts")
    a, b, alone = (root / name for name in ("a", "b", "alone"))
    for folder in (a, b, alone):
        make_host(folder, tiny_base)
    found: dict[str, Any] = {"a": a, "b": b, "alone": alone}
    one = start([alone], "--nproc-per-node", "1")[0]
    found["other killed"] = launch([a, b], after=5, do=lambda _, pids: os.kill(pids[1], signal.SIGKILL))
    found["left on b"] = sorted(path.name for path in (b / ".retune").rglob("*.pt"))
    found["told to stop"] = launch([a, b], after=8, do=lambda agents, _: agents[1].terminate())
    found["first killed"] = launch([a, b], after=12, do=lambda _, pids: os.kill(pids[0], signal.SIGKILL))
    found["end, one folder"] = launch([a, a])
    found["one"] = one.wait(timeout=60)
    return found


@pytest.mark.slow
def test_two_hosts_learn_what_one_process_does_after_all_that_ended_them(told: dict[str, Any]) -> None:
    assert told["one"] == 0
    assert told["end, one folder"].statuses == [0, 0], told["end, one folder"].said
    compare(told["alone"] / "data" / "adapter", told["a"] / "data" / "adapter")
    assert not (told["b"] / "data" / "adapter").exists()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["other killed", "first killed"])
def test_lost_process_ends_all_hosts_within_a_minute(told: dict[str, Any], what: str) -> None:
    run = told[what]
    assert all(run.statuses), run.said
    assert run.seconds_after < 60
    assert [pid for pid in run.pids.values() if not gone(pid, 0.5)] == []
    assert "run it again to go on from the last checkpoint" in run.said[0 if what == "other killed" else 1]


@pytest.mark.slow
def test_host_without_a_checkpoint_gets_the_first_ones_for_as_long_as_it_trains(told: dict[str, Any]) -> None:
    assert told["left on b"] == []
    assert "resumed after step 4 of 16" in told["told to stop"].said[0]
    assert "process 1" in told["told to stop"].said[1]
    assert not list((told["b"] / ".retune").rglob("*.pt"))


@pytest.mark.slow
def test_signal_to_one_host_ends_all_after_a_save(told: dict[str, Any]) -> None:
    run = told["told to stop"]
    assert all(run.statuses)
    stopped = re.search(r"after step (\d+), which is saved: run it again", run.said[0])
    assert stopped, run.said
    assert 8 <= int(stopped[1]) < 12
    assert f"resumed after step {stopped[1]} of 16" in told["first killed"].said[0]
