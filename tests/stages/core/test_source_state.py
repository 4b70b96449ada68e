import os
import subprocess
import time
from pathlib import Path

import pytest

from stages.core.source_state import NAMES, parse_status, start_git_query

HEAD = "0123456789abcdef0123456789abcdef01234567"


def git(root: Path, *words: str) -> str:
    named = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *named, *words], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    for name in ("same", "changed", "moved away", "gone"):
        (tmp_path / name).write_text(name * 20)
    (tmp_path / ".gitignore").write_text("ignored\n")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_state_names_the_commit_and_every_file_that_differs(checkout: Path) -> None:
    (checkout / "changed").write_text("x")
    (checkout / "gone").unlink()
    git(checkout, "mv", "moved away", "moved here")
    (checkout / "new\nname").write_text("x")
    (checkout / "ignored").write_text("x")
    state = start_git_query(checkout).read()
    assert state["commit"] == git(checkout, "rev-parse", "HEAD")
    assert state["dirty"] == ["changed", "gone", "moved here", "new\nname"]
    assert (state["dirty_count"], state["why"]) == (4, "")
    assert not list((checkout / ".git").glob("*.lock"))


def test_state_of_a_clean_checkout_is_clean_and_of_an_empty_one_said(checkout: Path, tmp_path: Path) -> None:
    assert start_git_query(checkout).read()["dirty"] == []
    empty = tmp_path / "empty"
    empty.mkdir()
    git(empty, "init", "-q")
    state = start_git_query(empty).read()
    assert (state["commit"], state["why"]) == (None, "nothing is committed yet")


def test_folder_that_is_no_checkout_of_its_own_is_not_told_of_another(checkout: Path) -> None:
    inside = checkout / "inside"
    inside.mkdir()
    state = start_git_query(inside).read()
    assert (state["commit"], state["dirty"]) == (None, None)
    assert "not the top of a git checkout" in state["why"]


def fake_git(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    folder.mkdir()
    (folder / "git").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_git_that_hangs_or_fails_costs_next_to_nothing(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_git(tmp_path / "hangs", monkeypatch, "exec sleep 60")
    began = time.monotonic()
    query = start_git_query(checkout)
    assert time.monotonic() - began < 0.2, "the work does not wait for it"
    assert query.read()["why"] == "git gave no answer in time"
    assert time.monotonic() - began < 2
    assert query.process is not None
    assert query.process.poll() is not None, "it is ended"
    fake_git(tmp_path / "fails", monkeypatch, "exit 128")
    assert start_git_query(checkout).read()["why"] == "git ended with 128"


def test_without_git_nothing_is_known(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert start_git_query(checkout).read()["why"] == "git is not here"


def test_many_files_are_counted_and_the_first_are_named() -> None:
    said = f"# branch.oid {HEAD}\0# branch.head main\0" + "".join(f"? {number:04}\0" for number in range(NAMES + 5))
    state = parse_status(said.encode())
    assert (len(state["dirty"] or []), state["dirty_count"]) == (NAMES, NAMES + 5)


def test_conflict_and_a_name_that_is_no_utf_8_are_named() -> None:
    line = b"u UU N... 100644 100644 100644 100644 a b c both ways\0? bad\xff\0"
    state = parse_status(f"# branch.oid {HEAD}\0".encode() + line)
    assert state["dirty"] == ["bad\\xff", "both ways"]
