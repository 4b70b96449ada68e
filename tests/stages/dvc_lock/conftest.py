import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.project import ROOT

STAGES = """\
stages:
  make:
    cmd: python -m stages.make --source source --made data/made --record data/records/make.json
    deps: [source, stages/make.py, stages/core]
    params: [make]
    outs: [data/made, data/records/make.json]
  use:
    cmd: python -m stages.use --made data/made --used data/used --record data/records/use.json
    deps: [data/made, stages/use.py, stages/core]
    params: [use]
    outs: [data/used, data/records/use.json]
  judge:
    cmd: python -m stages.judge --records data/records --verdict data/verdict.json
    deps: [data/records, stages/judge.py, stages/core, stages/dvc_lock]
    params: [judge, make, use]
    outs: [data/verdict.json]
"""
PARAMS = """\
make: {rate: 0.002, parts: {first: 1}}
use: {times: 2}
judge: {floor: 0}
runtime: {device: cpu, workers: 1, processes: null, sharding: none, micro_batch: 2, memory_limit_gb: null, save_steps: null, report_to: none,
  gradient_checkpointing: 'off', evaluation_batch: 4, log_level: info}
"""
# what is done in the window, between a stage's comparison and DVC's reading, is the Python in window.txt: a test says it
MAKE = '''\
"""A training in small."""
from pathlib import Path
from typing import Any
from stages.core.params import Params
from stages.core.runner import Finish, Input, Output, run

class MakeParams(Params):
    """Params."""
    rate: float
    parts: dict[str, int]

def make(source: Input, made: Output, params: MakeParams) -> Finish:
    """Make."""
    made.mkdir()
    (made / "model.txt").write_text(f"{(source / 'a.txt').read_text()} trained at {params.rate}")
    return lambda: exec(Path("window.txt").read_text())

if __name__ == "__main__":
    run(make)
'''
USE = '''\
"""An export in small."""
from stages.core.params import Params
from stages.core.runner import Input, Output, run

class UseParams(Params):
    """Params."""
    times: int

def use(made: Input, used: Output, params: UseParams) -> None:
    """Use."""
    used.write_text((made / "model.txt").read_text() * params.times)

if __name__ == "__main__":
    run(use)
'''
JUDGE = '''\
"""An audit in small: what it asks of dvc.lock is what the audit asks."""
from pathlib import Path
from stages.core.errors import Refusal
from stages.core.files import write_json
from stages.core.params import Params
from stages.core.runner import Input, Output, run
from stages.reporting.lock_check import check_lock

class JudgeParams(Params):
    """Params."""
    floor: int

def judge(records: Input, verdict: Output, params: JudgeParams) -> None:
    """Judge."""
    lock = check_lock(Path.cwd(), records)
    write_json(verdict, lock.check)
    if lock.check["passed"] is False:
        raise Refusal(f"{lock.check['says']}. {lock.forget_false_entries(Path.cwd())}")

if __name__ == "__main__":
    run(judge)
'''


class Toy:
    """A DVC project of three stages: one trains, one exports, one judges."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def dvc(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        env = {**os.environ, "PATH": path, "PYTHONPATH": str(self.root), "DVC_NO_ANALYTICS": "1"}
        command = [sys.executable, "-P", "-m", "dvc", *arguments]
        return subprocess.run(command, cwd=self.root, env=env, capture_output=True, text=True, check=False)

    def retune(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from retune.__main__ import main; main()"
        command = [sys.executable, "-P", "-c", code, *arguments]
        return subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=False)

    def repro(self, *arguments: str) -> str:
        """What DVC says of a run that ends well."""
        ended = self.dvc("repro", *arguments)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def edit(self, name: str, old: str, new: str) -> None:
        file = self.root / name
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    def window(self, code: str) -> None:
        """Have `make` do this as its last act: nobody compares any more, and DVC has not read yet."""
        (self.root / "window.txt").write_text(code)

    def lock(self) -> dict[str, Any]:
        from ruamel.yaml import YAML

        found: dict[str, Any] = YAML(typ="safe").load((self.root / "dvc.lock").read_text())["stages"]
        return found

    def text(self, name: str) -> str:
        return (self.root / name).read_text()


def make_toy(root: Path) -> Toy:
    """The toy after a run that was judged well; where it was made, DVC believes its files by size and time."""
    (root / "source").mkdir(parents=True)
    (root / "source/a.txt").write_text("rows")
    shutil.copytree(ROOT / "stages", root / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in {
        "dvc.yaml": STAGES,
        "params.yaml": PARAMS,
        "window.txt": "",
        "stages/make.py": MAKE,
        "stages/use.py": USE,
        "stages/judge.py": JUDGE,
        ".dvcignore": "__pycache__\n.retune\n*.partial\n",
    }.items():
        (root / name).write_text(text)
    toy = Toy(root)
    assert toy.dvc("init", "-q", "--no-scm").returncode == 0
    toy.repro()
    return toy


@pytest.fixture(scope="session")
def made_judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy(tmp_path_factory.mktemp("judged") / "toy").root


@pytest.fixture
def judged(made_judged: Path, tmp_path: Path) -> Toy:
    """A copy of the toy."""
    return Toy(Path(shutil.copytree(made_judged, tmp_path / "toy", symlinks=True)))
