"""Seeded random edits of the real project: DVC would run the stages that the imports say, and `retune why` names the edit."""

import json
import sys
from pathlib import Path

import pytest

from flows.dag import read_dag
from retune.why.explain import explain
from tests.end_to_end.conftest import copy_project
from tests.project import STAGES, downstream, outs_of
from tests.retune.why.support.edits import random_edit

pytestmark = pytest.mark.slow

Dag = dict[str, tuple[str, ...]]
SAMPLE, ALL, PART = range(15), 200, 20


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with outputs that DVC takes for those of a run: keys ask for no more."""
    project = copy_project(tmp_path_factory.mktemp("committed"))
    deps = {dep for entry in STAGES.values() for dep in entry["deps"]}
    for path in sorted({path for stage in STAGES for path in outs_of(stage)} | deps):
        file = project.root / (path if Path(path).suffix else f"{path}/part")
        if not (project.root / path).exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"inputs": {}}))
    project.call("dvc", "commit", "--force", "--quiet")
    project.call(sys.executable, "-c", "from stages.core.project_code import keep_code; keep_code()")
    project.call("git", "add", "--all")
    return project.root


@pytest.fixture(scope="module")
def dag(root: Path) -> Dag:
    return read_dag(root)


def problems(root: Path, dag: Dag, seed: int) -> list[str]:
    """What is not as it must be after the edit of a seed."""
    from dvc.repo import Repo

    edit = random_edit(seed, root)
    file = root / edit.path
    before = file.read_bytes() if file.exists() else None
    file.write_bytes(edit.content)
    try:
        with Repo(str(root)) as repo:
            status = repo.status()
        found = explain(root, status, dag)
    finally:
        file.unlink() if before is None else file.write_bytes(before)
    wrong = []
    if set(status) != edit.stages:
        wrong.append(f"DVC runs {sorted(status)}, the imports say {sorted(edit.stages)}")
    if {stage for stage, one in found.items() if one.causes} != edit.stages:
        wrong.append("why names other stages")
    waiting = {name for stage in edit.stages - {"check"} for name in downstream(stage)} - edit.stages
    if {stage for stage, one in found.items() if one.after and not one.causes} != waiting:
        wrong.append(f"{sorted(waiting)} wait for those, and why says others")
    for stage in edit.stages:
        causes = found[stage].causes
        if len(causes) != 1 or not causes[0].name.startswith(edit.name) or edit.words not in causes[0].text:
            wrong.append(f"{stage}: {[cause.text for cause in causes]}")
    return [f"{seed}: {edit.path}, {edit.name} ({edit.words}): {line}" for line in wrong]


@pytest.mark.parametrize("seed", SAMPLE)
def test_edit_runs_the_stages_that_import_it_and_why_names_it(
    root: Path, dag: Dag, monkeypatch: pytest.MonkeyPatch, seed: int
):
    monkeypatch.chdir(root)  # DVC names stages as seen from here
    assert problems(root, dag, seed) == []


@pytest.mark.long
@pytest.mark.parametrize("first", range(0, ALL, PART))
def test_two_hundred_edits_run_the_stages_that_import_them_and_why_names_each(
    root: Path, dag: Dag, monkeypatch: pytest.MonkeyPatch, first: int
):
    monkeypatch.chdir(root)
    assert [line for seed in range(first, first + PART) for line in problems(root, dag, seed)] == []
