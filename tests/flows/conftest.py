import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# defined out of order on purpose: `mid` stands before one of the stages that it reads
STAGES = """\
stages:
  zeta:
    cmd: python work.py zeta
    deps: [zeta.txt]
    outs: [out/zeta]
  last:
    cmd: python work.py last out/mid
    deps: [out/mid]
    outs: [out/last]
  mid:
    cmd: python work.py mid out/zeta out/alpha
    deps: [mid.txt, out/zeta, out/alpha]
    outs: [out/mid]
  alpha:
    cmd: python work.py alpha
    deps: [alpha.txt]
    outs: [out/alpha]
  apart:
    cmd: python work.py apart out/zeta
    deps: [apart.txt, out/zeta]
    outs: [out/apart]
"""
# what a stage does is the Python in its STAGE.txt, so that a test can say it
WORK = """\
import sys
from pathlib import Path
name = sys.argv[1]
script = Path(f"{name}.txt")
Path("out").mkdir(exist_ok=True)
print(f"{name}: at work", flush=True)
if script.exists():
    exec(script.read_text())
Path("out", name).write_text(name)
"""


def dvc(root: Path, *arguments: str) -> str:
    command = [sys.executable, "-P", "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="session")
def run_dvc() -> Callable[..., str]:
    return dvc


@pytest.fixture(scope="session")
def made_toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made") / "toy"
    root.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    dvc(root, "init", "-q")
    dvc(root, "config", "core.analytics", "false")
    (root / "dvc.yaml").write_text(STAGES)
    (root / "work.py").write_text(WORK)
    for stage in ("zeta", "mid", "alpha", "apart"):
        (root / f"{stage}.txt").write_text("")
    subprocess.run(
        ["git", "add", "work.py"], cwd=root, check=True
    )  # no stage names it: it is found because git knows it
    return root


@pytest.fixture
def toy(made_toy: Path, tmp_path: Path) -> Path:
    """A DVC project of five small stages."""
    return Path(shutil.copytree(made_toy, tmp_path / "toy"))
