import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from flows.dvc_project import read_entry, write_entries
from flows.file_copies import copy_file, copy_path
from flows.homecoming import bring_home, take_place
from flows.snapshot import aside, incoming, mend, take_snapshot

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def repro_once(made_toy, run_dvc, tmp_path_factory):
    root = Path(shutil.copytree(made_toy, tmp_path_factory.mktemp("snapshot") / "toy"))
    run_dvc(root, "repro", "-q")
    return root


@pytest.fixture
def made(repro_once, tmp_path):
    """The toy with all outputs."""
    return Path(shutil.copytree(repro_once, tmp_path / "toy"))


def git(root, *arguments):
    return subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=root, check=True, capture_output=True, text=True
    ).stdout  # fmt: skip


def test_snapshot_has_inputs_as_files_of_its_own_and_outputs_out_of_the_cache(made):
    snapshot = take_snapshot(made, print)
    assert (snapshot.root / "zeta.txt").stat().st_ino != (made / "zeta.txt").stat().st_ino
    assert (snapshot.root / "zeta.txt").stat().st_nlink == 1
    assert (snapshot.root / "out/zeta").read_text() == "zeta"
    assert (snapshot.root / "out/zeta").stat().st_ino != (made / "out/zeta").stat().st_ino
    assert (snapshot.root / "work.py").exists()  # no stage names it, git knows it
    assert all(point.as_locked for point in snapshot.start.values())


def test_output_that_the_cache_has_not_is_copied_from_home(made):
    for file in (made / ".dvc/cache/files").rglob("*"):
        if file.is_file():
            file.unlink()
    assert (take_snapshot(made, print).root / "out/zeta").read_text() == "zeta"


def test_snapshot_has_the_commit_and_the_changes_of_when_it_was_taken(made):
    git(made, "add", "-A")
    git(made, "commit", "-qm", "all")
    (made / "zeta.txt").write_text("# edited")
    head = git(made, "rev-parse", "HEAD")
    root = take_snapshot(made, print).root
    git(made, "commit", "-qam", "later")
    assert git(root, "rev-parse", "HEAD") == head
    assert git(root, "status", "--porcelain", "--", "*.txt").split() == ["M", "zeta.txt"]
    assert ".retune" not in git(made, "worktree", "list")


def test_links_in_a_folder_of_the_user_are_followed_and_circles_are_not(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far/weights").write_text("w")
    (tmp_path / "near").mkdir()
    (tmp_path / "near/file").symlink_to(tmp_path / "far/weights")
    (tmp_path / "near/folder").symlink_to(tmp_path / "far")
    (tmp_path / "near/circle").symlink_to(tmp_path / "near")
    (tmp_path / "near/lost").symlink_to(tmp_path / "nowhere")
    copy_path(tmp_path / "near", tmp_path / "copy", lambda _: False)
    (tmp_path / "far/weights").write_text("edited")
    found = {path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*")}
    assert found == {"file", "folder", "folder/weights"}
    assert (tmp_path / "copy/file").read_text() == (tmp_path / "copy/folder/weights").read_text() == "w"


def test_file_that_is_being_written_is_copied_when_it_is_whole(tmp_path):
    source, ended = tmp_path / "a", threading.Event()
    source.write_text("")

    def write():
        with source.open("w") as file:
            for _ in range(40):
                file.write("x" * 200_000)
                file.flush()
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    copy_file(source, tmp_path / "b")
    if ended.is_set():
        assert (tmp_path / "b").stat().st_size == source.stat().st_size
    writer.join()


def test_output_at_home_that_was_edited_during_the_run_is_left_as_it_is(made):
    snapshot = take_snapshot(made, print)
    (snapshot.root / "out/zeta").unlink()
    (snapshot.root / "out/zeta").write_text("of the run")
    entry = read_entry(snapshot.root, snapshot.stages["zeta"])
    entry["outs"][0]["md5"] = "0" * 32
    write_entries(snapshot.root, "dvc.lock", {"zeta": entry})
    time.sleep(0.01)
    (made / "out/zeta").write_text("of mine")
    assert bring_home(snapshot, "zeta") == "out/zeta was changed since the run began"
    assert (made / "out/zeta").read_text() == "of mine"
    assert not incoming(made / "out/zeta").exists()


def test_output_at_home_that_came_back_from_the_cache_during_the_run_gives_way(made, run_dvc):
    (made / "out/zeta").unlink()
    snapshot = take_snapshot(made, print)
    run_dvc(made, "checkout", "-q", "out/zeta")
    assert bring_home(snapshot, "zeta") == ""
    assert (made / "out/zeta").read_text() == "zeta"


def test_output_that_another_dvc_command_works_with_is_left_alone(made):
    snapshot = take_snapshot(made, print)
    (snapshot.root / "out/zeta").unlink()
    (snapshot.root / "out/zeta").write_text("of the run")
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        (made / ".dvc/tmp/rwlock").write_text(
            f'{{"write": {{"{made}/out/zeta": {{"pid": {sleeper.pid}, "cmd": "dvc repro zeta"}}}}}}'
        )
        assert f"(PID {sleeper.pid}): dvc repro zeta" in bring_home(snapshot, "zeta", refused=True)
    finally:
        sleeper.kill()
        sleeper.wait()
    assert (made / "out/zeta").read_text() == "zeta"


def test_dvc_lock_that_is_broken_at_home_is_said_and_left(made):
    snapshot = take_snapshot(made, print)
    (made / "dvc.lock").write_text("stages: {")
    (made / "out/zeta").unlink()
    assert "dvc.lock" in bring_home(snapshot, "zeta", refused=True)
    assert (made / "dvc.lock").read_text() == "stages: {"


@pytest.mark.parametrize("moved", [False, True])
def test_killed_between_two_renames_is_mended_by_the_next_run(tmp_path, moved):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/a").write_text("good")
    incoming(tmp_path / "model").mkdir()
    if moved:
        (tmp_path / "model").rename(aside(tmp_path / "model"))
    mend(tmp_path, ["model"])
    assert (tmp_path / "model/a").read_text() == "good"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_output_takes_the_place_of_a_folder_that_had_other_files(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/old").write_text("old")
    incoming(tmp_path / "model").mkdir()
    (incoming(tmp_path / "model") / "new").write_text("new")
    take_place(tmp_path / "model")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "new"]


def test_entry_is_written_as_dvc_writes_it(made):
    before = (made / "dvc.lock").read_bytes()
    entry = read_entry(made, take_snapshot(made, print).stages["mid"])
    write_entries(made, "dvc.lock", {"mid": {**entry, "cmd": "other"}})
    assert (made / "dvc.lock").read_bytes() != before
    write_entries(made, "dvc.lock", {"mid": entry})
    assert (made / "dvc.lock").read_bytes() == before


def test_entry_that_a_stage_has_had_dvc_forget_goes_at_home_too(made):
    snapshot = take_snapshot(made, print)
    write_entries(snapshot.root, "dvc.lock", {"zeta": None})
    assert bring_home(snapshot, "last", refused=True) == ""
    assert read_entry(made, snapshot.stages["zeta"]) is None
    assert read_entry(made, snapshot.stages["last"]) is not None
