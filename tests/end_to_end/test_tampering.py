"""Every tampering of a finished project is named by its kind, and what was not touched is not: on the run that the session's tests share."""

import itertools
import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from retune.verify.kinds import KINDS, Difference
from retune.verify.project import verify_project
from tests.end_to_end.conftest import Project
from tests.end_to_end.tamperings import TAMPERINGS, Tampering, find_touched, flip, put_back, remove, render_page
from tests.project import ROOT

pytestmark = pytest.mark.slow

STORE = ".dvc/cache"
CASES = [
    list(group)
    for _, group in itertools.groupby(
        sorted(TAMPERINGS, key=lambda one: one.together or one.what), key=lambda one: one.together or one.what
    )
]
"""What is carried out at once."""


def verify(root: Path, *, deep: bool = False) -> list[Difference]:
    return verify_project(root, root / STORE, deep=deep).differences


def test_there_are_forty_and_more_and_the_page_lists_them() -> None:
    assert len(TAMPERINGS) >= 40
    assert len({one.what for one in TAMPERINGS}) == len(TAMPERINGS)
    assert {one.kind for one in TAMPERINGS} <= KINDS.keys()
    written = (ROOT / "docs/tamperings.md").read_text(encoding="utf-8")
    assert written == render_page(), "python -m tests.end_to_end.tamperings > docs/tamperings.md"


def test_untouched_project_has_no_finding_before_and_after_another_repro(project: Project) -> None:
    found = verify_project(project.root, project.root / STORE, deep=True)
    assert (found.differences, found.notes) == ([], [])
    assert found.files > 100
    assert project.repro() == set()
    assert verify(project.root, deep=True) == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].together or case[0].what.replace(" ", "_"))
def test_tampering_is_named_by_its_kind(project: Project, case: list[Tampering]) -> None:
    touched = [name for one in case for name in find_touched(project.root, one.touches)]
    with put_back(project.root, tuple(touched)):
        for one in case:
            one.act(project.root)
        found = verify(project.root, deep=case[0].deep)
    for one in case:
        named = [
            difference
            for difference in found
            if difference.kind == one.kind
            and difference.path.startswith(one.path)
            and (difference.field == one.field or not one.field)
        ]
        assert named, f"{one.what}: {found}"
        assert all(difference.remedy and difference.says for difference in named)
    assert {difference.kind for difference in found} <= KINDS.keys()


def test_files_of_the_users_that_no_stage_reads_are_told_and_are_no_difference(project: Project) -> None:
    strays = [
        project.root / name for name in ("data/custom/notes.txt", "data/notes.txt", "notes.txt", "data/.x.partial")
    ]
    with ExitStack() as stack:
        for stray in strays:
            stray.write_text("mine")
            stack.callback(stray.unlink)
        found = verify_project(project.root, project.root / STORE)
    assert found.differences == []
    assert len(found.notes) == 3, "fetch_data, standardize and template could have read it"
    assert all(note.startswith("data/custom: a file that ") for note in found.notes)


def test_command_says_what_differs_and_what_helps_and_ends_with_one(project: Project) -> None:
    name = "data/gguf/retune-demo-q8_0.gguf"
    project.call("dvc", "status")  # so that DVC has the hash of the file as it lies there
    with put_back(project.root, (name,)):
        flip(project.root, name)
        assert "up to date" in project.call("dvc", "status").stdout, "DVC believes size and time"
        (one,) = verify(project.root)
        ended = project.call("retune", "verify", check=False)
        assert ended.returncode == 1
        assert f"output_changed: {name}: is not what gguf wrote (gguf)" in ended.stdout
        assert one.remedy == "`retune restore --force gguf`"
        assert one.remedy in ended.stdout
        project.call(*one.remedy.strip("`").split())
        assert verify(project.root) == []
        assert project.repro() == set()


def test_remote_is_read_and_what_is_wrong_there_is_named(project: Project, tmp_path: Path) -> None:
    config = ".dvc/config.local"
    with put_back(project.root, (config,)):
        assert "remote" in project.call("retune", "verify", "--remote", check=False).stderr
        project.call("dvc", "remote", "add", "--local", "--default", "kept", str(tmp_path / "kept"))
        project.call("dvc", "push")
        ended = project.call("retune", "verify", "--remote")
        assert "all is as it was written down: the project, the remote" in ended.stdout
        objects = sorted(path for path in (tmp_path / "kept").rglob("*") if path.is_file())
        rotten, gone = (
            max(objects, key=lambda path: path.stat().st_size),
            next(path for path in objects if path.suffix == ".dir"),
        )
        flip(tmp_path, rotten.relative_to(tmp_path).as_posix())
        remove(tmp_path, gone.relative_to(tmp_path).as_posix())
        ended = project.call("retune", "verify", "--remote", "--json", check=False)
        assert ended.returncode == 1
        assert sorted(one["kind"] for one in json.loads(ended.stdout)["differences"]) == [
            "remote_missing",
            "remote_rotten",
        ]
