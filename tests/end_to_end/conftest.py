"""A clone of the project in a folder of its own, its pipeline run once with the real `dvc repro`, shared by the session's tests."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from retune.use.presets import write_preset
from tests.project import ROOT, STAGES

# the demo, cut down to what shows the plumbing: a trained model is tests/end_to_end/test_demo.py's business
SMALL: Mapping[str, Mapping[str, Any]] = {
    "fetch_data": {"limit": 400},
    "train": {"steps": 3, "eval_steps": None, "warmup_steps": 1, "logging_steps": 1},
    "evaluate": {"rows": 8, "answer_rows": 2},
    "merge": {"check_rows": 2, "max_logit_difference": 2.0},
    "gguf": {"quantizations": ["q8_0"], "check_rows": 2, "check_answers": 2},
    "audit": {
        "min_heldout_rows": 1,
        "min_loss_gain": None,
        "min_exact_match": None,
        "max_exact_match_loss": None,
        "gguf": {},
        "max_rejected_share": 0.5,
    },
}
METRICS = [path for stage in STAGES.values() for metric in stage.get("metrics", []) for path in metric]


class Project:
    """A copy of the project and what a person does in it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def call(self, *command: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {
            **os.environ,
            "PATH": path,
            "PYTHONPATH": str(self.root),
            "DVC_NO_ANALYTICS": "1",
            "DO_NOT_TRACK": "1",
            **env,
        }
        ended = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0 or not check, f"{command} failed:\n{ended.stdout[-6000:]}\n{ended.stderr[-6000:]}"
        return ended

    def repro(self, *flags: str) -> set[str]:
        """The stages that `dvc repro` ran. Their order is DVC's: where the graph leaves a choice, it differs from run to run."""
        return self.stages_run(self.call("dvc", "repro", *flags).stdout)

    def stages_run(self, said: str) -> set[str]:
        """The stages that DVC says it runs."""
        return set(re.findall(r"^Running stage '(\w+)'", said, flags=re.MULTILINE))

    def params(self, change: Callable[[dict[str, Any]], None]) -> None:
        yaml = YAML()
        values = yaml.load(self.root / "params.yaml")
        change(values)
        yaml.dump(values, self.root / "params.yaml")

    @contextmanager
    def edited(self, *files: str) -> Iterator[None]:
        """Put files, and the state of the last run, back at the end."""
        # metrics are in no cache, so no checkout brings them back
        metrics = [path for path in METRICS if (self.root / path).is_file()]
        kept = {name: (self.root / name).read_bytes() for name in [*files, *metrics, "dvc.lock"]}
        try:
            yield
        finally:
            for name, content in kept.items():
                (self.root / name).write_bytes(content)
            self.call("dvc", "checkout", "--force", "--quiet")


def copy_project(target: Path) -> Project:
    """What git would give a clone, with the edits not committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    (target / "dvc.lock").unlink(missing_ok=True)
    (target / "params.yaml").write_text(write_preset(target, "demo"), encoding="utf-8")
    project = Project(target)
    project.call("git", "init", "--quiet", "--initial-branch=main")
    return project


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The small pipeline, carried out; committed, so that `dvc exp` and `dvc metrics diff` have something to start from."""
    project = copy_project(tmp_path_factory.mktemp("project"))
    project.params(lambda values: [values[section].update(keys) for section, keys in SMALL.items()])
    assert project.repro() == set(STAGES)
    project.call("git", "add", "--all")
    project.call(
        "git", "-c", "user.name=t", "-c", "user.email=t@example.invalid", "commit", "--quiet", "--message", "run"
    )
    return project
