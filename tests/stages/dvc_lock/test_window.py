from pathlib import Path
from typing import Any

import pytest

from stages.core.files import sha256_file, sha256_files, sha256_tree
from stages.core.project_code import keep_code
from stages.dvc_lock.hashes import digest_path
from stages.dvc_lock.lock import LockedStage
from stages.dvc_lock.window import find_window_edits

CODE = '"""Make."""\nX = 1\n'


class Run:
    """A stage `make` that has read source/ whole, chosen/ in part, and what `before` wrote, with stages/make.py."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("source/a.txt", "chosen/b.txt", "chosen/stray.txt", "written/c.txt"):
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_text(name)
        (root / "stages").mkdir()
        (root / "stages/make.py").write_text(CODE)
        keep_code()
        self.record: dict[str, Any] = {
            "stage": "make",
            "code": {"stages/make.py": sha256_file(root / "stages/make.py")},
            "params": {"x": 1},
            "inputs": {
                "source": {"path": "source", "sha256": sha256_tree(sha256_files(root / "source"))},
                "chosen": {"path": "chosen", "sha256": "", "files": {"b.txt": sha256_file(root / "chosen/b.txt")}},
                "written": {"path": "written", "sha256": sha256_tree(sha256_files(root / "written"))},
            },
        }
        self.params: dict[str, Any] = {"x": 1}
        self.read_by_dvc()

    def read_by_dvc(self) -> None:
        """DVC reads what lies there now."""
        deps = {path: digest_path(self.root, path) for path in ("source", "chosen", "written", "stages/make.py")}
        self.locked = {
            "before": LockedStage("before", "", {}, {}, {"written": "x"}),
            "make": LockedStage("make", "", {"make": self.params}, deps, {}),
        }

    def said(self, limit: int | None = None) -> list[tuple[str, str]]:
        found = find_window_edits(self.root, self.record, self.locked, limit)
        return [(difference.kind, difference.field) for difference in found]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return Run(tmp_path)


EDITS = {
    "source/a.txt": ("inputs", "source"),
    "source/new.txt": ("inputs", "source"),
    "chosen/b.txt": ("inputs", "chosen"),
    "stages/make.py": ("code", "stages/make.py"),
}


def test_find_window_edits_of_an_honest_run_finds_nothing(run: Run) -> None:
    assert run.said() == []


@pytest.mark.parametrize("name", EDITS)
def test_find_window_edits_names_what_dvc_read_and_the_run_did_not(run: Run, name: str) -> None:
    (run.root / name).write_text("X = 2\n")
    run.read_by_dvc()
    assert run.said() == [EDITS[name]]


@pytest.mark.parametrize("name", EDITS)
def test_find_window_edits_says_nothing_of_an_edit_since(run: Run, name: str) -> None:
    (run.root / name).write_text("X = 2\n")
    assert run.said() == []


@pytest.mark.parametrize("name", ["chosen/stray.txt", "written/c.txt"])
def test_find_window_edits_leaves_out_what_was_not_read_and_what_a_stage_wrote(run: Run, name: str) -> None:
    (run.root / name).write_text("X = 2\n")
    run.read_by_dvc()
    assert run.said() == []


def test_find_window_edits_hashes_no_more_than_it_is_asked_to(run: Run) -> None:
    (run.root / "source/a.txt").write_text("a" * 100)
    run.read_by_dvc()
    assert run.said(limit=99) == []
    assert run.said(limit=100) == [("inputs", "source")]


@pytest.mark.parametrize("text", ["# a note\n" + CODE, CODE.replace("Make.", "Makes all of it.")])
def test_find_window_edits_takes_an_accepted_edit_for_harmless(run: Run, text: str) -> None:
    (run.root / "stages/make.py").write_text(text)
    run.read_by_dvc()  # as `retune accept` has DVC do
    assert run.said() == []


def test_find_window_edits_of_code_whose_text_nobody_has_tells_nothing(run: Run) -> None:
    (run.root / "stages/make.py").write_text("X = 2\n")
    run.read_by_dvc()
    for file in (run.root / ".retune/code").glob("*.py"):
        file.unlink()
    assert run.said() == []


def test_find_window_edits_a_new_param_is_accepted_with_other_code_and_false_without(run: Run) -> None:
    run.params = {"x": 1, "new": 0}
    run.read_by_dvc()
    assert run.said() == [("params", "make.new")]
    (run.root / "stages/make.py").write_text("X = 2\n")
    run.read_by_dvc()
    assert run.said() == []
