import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.project import ROOT

CHILD = """
import os, signal, sys, time
from stages.core.parent_death import die_with_parent
signal.signal(signal.SIGTERM, lambda *_: (open(sys.argv[1], "w").write("in order"), sys.exit()))
die_with_parent(*eval(sys.argv[2]))
print("ready", flush=True)
time.sleep(600)
"""
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(("asked", "in_order"), [("()", True), ("(signal.SIGKILL, os.getppid())", False)])
def test_process_ends_with_its_parent_by_the_signal_it_asked_for(tmp_path: Path, asked: str, in_order: bool) -> None:
    command = [sys.executable, "-c", PARENT, CHILD, str(tmp_path / "end"), asked]
    parent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert (tmp_path / "end").exists() is in_order


def test_process_whose_parent_died_before_ends_at_once_and_another_does_not() -> None:
    script = "import sys; from stages.core.parent_death import die_with_parent; from signal import SIGKILL\n"
    script += "die_with_parent(SIGKILL, int(sys.argv[1]))"
    for parent, status in ((os.getpid(), 0), (os.getppid(), 1)):
        assert subprocess.run([sys.executable, "-c", script, str(parent)], cwd=ROOT, check=False).returncode == status


def alive(process: int) -> bool:
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
