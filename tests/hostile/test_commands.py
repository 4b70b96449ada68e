"""A sample of hostile files through the real commands, as processes: exit code 1, one message, no traceback, in bounded time and memory."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.ours import DATA_STAGES
from tests.hostile.made import dialogue, good_lines, gzip_bomb, line, parquet, zstd_bomb
from tests.hostile.pipeline import MARKER, Project, write_params
from tests.project import ROOT, STAGES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

MOST_MIB = 1_500
SECONDS = 30

MEASURED = """
import os, sys
process = os.posix_spawn(sys.executable, [sys.executable, *sys.argv[1:]], os.environ)
_, status, usage = os.wait4(process, 0)
open("peak.txt", "w").write(str(usage.ru_maxrss // 1024))
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Linux counts to a child's peak what its parent had when it was forked, and pytest may have gigabytes: so a small process is the parent."""

REFUSED = {
    "cut_off": ("x.parquet", lambda: parquet()[:-100]),
    "gzip_bomb": ("x.jsonl.gz", lambda: gzip_bomb(b"z", 2**32)),
    "gzip_bomb_of_blank_lines": ("x.jsonl.gz", lambda: gzip_bomb(b"\n", 2**32)),
    "zstd_bomb": ("x.jsonl.zst", lambda: zstd_bomb(b"{}\n", 2**32)),
    "no_json": ("x.jsonl", lambda: f"{MARKER}\n".encode() * 1_000),
}


def run(project: Project, stage: str) -> tuple[int, str, int]:
    """(exit code, what was said, peak resident MiB) of one command."""
    arguments = shlex.split(STAGES[stage]["cmd"])[1:]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    said = project.folder / "said.txt"
    with said.open("w") as out:
        command = [sys.executable, "-c", MEASURED, *arguments]
        done = subprocess.run(command, cwd=project.folder, env=environment, stdout=out, stderr=out, check=False)
    return done.returncode, said.read_text(), int((project.folder / "peak.txt").read_text())


def through(project: Project, name: str, **changed: dict[str, object]) -> tuple[str, int, str, int]:
    """The last stage that ran, its exit code, all that was said, and the most memory of any."""
    write_params(project.folder, name, changed)
    text, most, code, stage = "", 0, 0, ""
    for stage in DATA_STAGES:
        code, said, peak = run(project, stage)
        text, most = text + said, max(most, peak)
        if code:
            break
    return stage, code, text, most


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.timeout(SECONDS)
def test_a_hostile_file_ends_the_command_with_one_message(project: Project, case: str) -> None:
    name, content = REFUSED[case]
    project.write(name, content())
    _, code, said, most = through(project, name)
    assert code == 1
    assert "Traceback" not in said
    assert MARKER not in said
    assert most < MOST_MIB
    assert not list((project.folder / "data").glob(".*.partial"))


def test_a_message_of_ten_megabytes_goes_through_the_commands(project: Project) -> None:
    large = dialogue("word " * 2_000_000, f"{MARKER} " * 10)
    project.write("x.jsonl", good_lines() + line(large))
    stage, code, said, most = through(project, "x.jsonl", standardize={"max_chars": None, "heldout_fraction": 0.0})
    assert (stage, code) == ("template", 0), said
    assert MARKER not in said
    assert most < MOST_MIB


def test_imports_of_the_data_stages_hold_no_torch(project: Project) -> None:
    project.write("x.jsonl", good_lines())
    write_params(project.folder, "x.jsonl", {})
    heavy = Path(project.folder, "heavy.py")
    heavy.write_text("raise ImportError('not in the data stages')\n")
    for name in ("torch", "transformers", "datasets"):
        heavy.with_name(f"{name}.py").write_bytes(heavy.read_bytes())
    heavy.unlink()
    for stage in DATA_STAGES:
        code, said, _ = run(project, stage)
        assert code == 0, said
