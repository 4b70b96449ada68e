"""Whole runs on a snapshot, by `retune run`: what is edited at home meanwhile, and how runs end."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.process import dvc_environment

pytestmark = pytest.mark.slow

STAGES = """\
stages:
  first:
    cmd: python -m stages.work first
    deps: [stages, source.txt]
    params: [rate]
    outs: [out/first]
    metrics:
      - out/metrics.json: {cache: false}
  second:
    cmd: python -m stages.work second
    deps: [out/first]
    outs: [out/second]
"""
# a stage of the snapshot waits where the test has asked for it; only then it reads what it reads
WORK = """\
import os, signal, sys, time
from pathlib import Path
if Path(".retune/flags/slow-to-end").exists():
    signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1.5), os._exit(1)))
name, flags = sys.argv[1], Path(".retune/flags")
if Path.cwd().name == "snapshot" and (flags / f"wait-{name}").exists():
    (flags / f"at-{name}").write_text(str(os.getpid()))
    while (flags / f"wait-{name}").exists():
        time.sleep(0.02)
from stages import late
Path("out").mkdir(exist_ok=True)
texts = [Path(file).read_text() for file in ("params.yaml", "source.txt")]
if name == "first":
    Path("out/metrics.json").write_text("{}")
if not (flags / f"fail-{name}").exists():
    Path("out", name).write_text("|".join([late.WORD, *texts]))
if (flags / f"refuse-{name}").exists() or (flags / f"fail-{name}").exists():
    sys.exit(f"{name}: not this one")
"""


@pytest.fixture(scope="session")
def run_once(made_toy, run_dvc, tmp_path_factory):
    """A project of two stages, and all that they write."""
    toy = Path(shutil.copytree(made_toy, tmp_path_factory.mktemp("run") / "toy"))
    (toy / "dvc.yaml").write_text(STAGES)
    (toy / "params.yaml").write_text("rate: 1\n")
    (toy / "source.txt").write_text("rows\n")
    (toy / ".gitignore").write_text("/.retune/\n/out/\n")
    (toy / "stages").mkdir()
    (toy / "stages/__init__.py").write_text("")
    (toy / "stages/work.py").write_text(WORK)
    (toy / "stages/late.py").write_text("WORD = 'old'\n")
    (toy / ".retune/flags").mkdir(parents=True)
    run_dvc(toy, "repro", "-q")
    return toy


@pytest.fixture
def made(run_once, tmp_path):
    return Path(shutil.copytree(run_once, tmp_path / "project"))


@pytest.fixture
def project(made):
    """The same, nothing of it run yet."""
    (made / "dvc.lock").unlink()
    for folder in (made / "out", made / ".dvc/cache"):
        shutil.rmtree(folder)
    return made


def begin(project, *stages):
    return subprocess.Popen(
        [sys.executable, "-m", "retune", "run", *stages], cwd=project, env={**dvc_environment(), "PYTHONSAFEPATH": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def end(process, code):
    output = process.communicate(timeout=120)[0]
    assert process.returncode == code, output
    return output


def flag(project, name):
    path = project / ".retune/flags" / name
    path.write_text("")
    return path


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_at(project, stage):
    found = project / ".retune/flags" / f"at-{stage}"
    wait_for(lambda: found.exists() and found.read_text())
    return int(found.read_text())


def files_of(project):
    return {path.name: path.read_text() for path in (project / "out").iterdir()}


def test_run_leaves_what_a_plain_repro_leaves(project, run_dvc):
    end(begin(project), 0)
    lock, files = (project / "dvc.lock").read_bytes(), files_of(project)
    assert files == {"first": "old|rate: 1\n|rows\n", "second": "old|rate: 1\n|rows\n", "metrics.json": "{}"}
    assert run_dvc(project, "status").strip() == "Data and pipelines are up to date."
    assert not (project / ".retune/snapshot").exists()
    (project / "dvc.lock").unlink()
    run_dvc(project, "repro", "--force")
    assert ((project / "dvc.lock").read_bytes(), files_of(project)) == (lock, files)
    # and a changed one on top of it
    (project / "params.yaml").write_text("rate: 2\n")
    end(begin(project, "first"), 0)
    lock = (project / "dvc.lock").read_bytes()
    run_dvc(project, "repro", "--force", "--single-item", "first")
    assert (project / "dvc.lock").read_bytes() == lock


def test_edits_at_home_during_a_run_wait_for_the_next(project, run_dvc):
    held = flag(project, "wait-first")
    run = begin(project)
    wait_at(project, "first")
    (project / "params.yaml").write_text("rate: 2\n")
    (project / "source.txt").write_text("other rows\n")
    (project / "stages/late.py").write_text("WORD = 'new'\n")
    (project / "dvc.yaml").write_text(STAGES.replace("work second", "work second && true"))
    assert "params.yaml" in run_dvc(project, "status")  # no lock of DVC's is in the way
    held.unlink()
    output = end(run, 0)
    assert files_of(project)["second"] == "old|rate: 1\n|rows\n", output
    assert "rate: 1" in (project / "dvc.lock").read_text()
    status = run_dvc(project, "status")
    assert all(name in status for name in ("params.yaml", "source.txt", "stages", "changed command"))
    assert (project / "params.yaml").read_text() == "rate: 2\n"
    end(begin(project), 0)
    assert files_of(project)["second"] == "new|rate: 2\n|other rows\n"


def test_repro_at_home_during_a_run_is_not_overwritten(project, run_dvc):
    held = flag(project, "wait-first")
    run = begin(project)
    wait_at(project, "first")
    (project / "params.yaml").write_text("rate: 3\n")
    run_dvc(project, "repro")
    before = (project / "dvc.lock").read_bytes()
    held.unlink()
    output = end(run, 1)
    assert "not brought home: dvc.lock has another entry for this stage than when the run began" in output
    assert "not brought home: first has not come home" in output
    assert (project / "dvc.lock").read_bytes() == before
    assert files_of(project)["first"] == "old|rate: 3\n|rows\n"
    assert (project / ".retune/snapshot/out/first").read_text() == "old|rate: 1\n|rows\n"
    end(begin(project), 0)
    assert not (project / ".retune/snapshot").exists()


def test_stage_that_fails_leaves_the_last_good_files_and_one_that_refuses_brings_its_own(made):
    good, lock = files_of(made), (made / "dvc.lock").read_bytes()
    (made / "params.yaml").write_text("rate: 2\n")
    failing = flag(made, "fail-first")
    output = end(begin(made), 1)
    assert "first: not this one" in output
    assert "waits for first" in output
    assert (files_of(made), (made / "dvc.lock").read_bytes()) == (good, lock)
    failing.unlink()
    flag(made, "refuse-first")
    end(begin(made), 1)
    assert files_of(made)["first"] == "old|rate: 2\n|rows\n"
    assert (made / "dvc.lock").read_bytes() == lock


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_run_that_is_killed_leaves_home_whole_and_the_next_goes_on(made, number):
    good, lock = files_of(made), (made / "dvc.lock").read_bytes()
    (made / "params.yaml").write_text("rate: 2\n")
    held = flag(made, "wait-second")
    if number == signal.SIGKILL:
        flag(made, "slow-to-end")
    killed = begin(made)
    pid = wait_at(made, "second")
    killed.send_signal(number)
    killed.communicate()
    assert killed.returncode == (130 if number == signal.SIGINT else -number)
    assert files_of(made) == {**good, "first": "old|rate: 2\n|rows\n"}  # what had ended is at home
    assert (made / "dvc.lock").read_bytes() != lock
    assert (made / ".retune/snapshot").exists() == (number == signal.SIGKILL)
    if number == signal.SIGKILL:
        held.unlink()
        output = end(begin(made), 0)
        assert "another run is at work here" in output  # until nothing of the killed one is left
        assert "Stage 'first' didn't change, skipping" in output
        assert files_of(made)["second"] == "old|rate: 2\n|rows\n"
        assert not (made / ".retune/snapshot").exists()
    assert not Path(f"/proc/{pid}").exists()


def test_second_run_waits_for_the_first(made):
    (made / "params.yaml").write_text("rate: 2\n")
    held = flag(made, "wait-first")
    first = begin(made)
    wait_at(made, "first")
    second = begin(made)
    assert f"another run is at work here (process {first.pid})" in second.stdout.readline()
    held.unlink()
    end(first, 0)
    assert "Ran" not in end(second, 0)


def test_run_of_one_stage_takes_what_stands_before_it_and_no_other(project):
    end(begin(project, "first"), 0)
    assert "second" not in files_of(project)
    assert "dvc.yaml has no third; it has first, second" in end(begin(project, "third"), 1)
