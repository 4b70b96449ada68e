import fcntl
import json
import subprocess
import sys
import time

import pytest

from retune.doctor.repository import check_dvc, check_git, check_locks


def one(findings):
    (found,) = list(findings)
    return found


def owner(pid):
    return {"pid": pid, "cmd": "dvc repro"}


@pytest.fixture
def dead():
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.mark.parametrize(("text", "word"), [("", "empty"), ('{"read": {', "cut off"), ("[]", "damaged")])
def test_rwlock_that_cannot_be_read_is_a_problem_with_the_way_out(tmp_path, text, word):
    (tmp_path / "rwlock").write_text(text)
    found = one(check_locks(tmp_path))
    assert found.state == "problem"
    assert word in found.found
    assert "rm .dvc/tmp/rwlock" in found.todo


def test_rwlock_of_a_dead_process_is_ok(tmp_path, dead):
    (tmp_path / "rwlock").write_text(json.dumps({"read": {"x": [owner(dead)]}, "write": {}}))
    assert one(check_locks(tmp_path)).state == "ok"


def test_rwlock_whose_number_another_program_has_is_a_problem(tmp_path):
    process = subprocess.Popen(["sleep", "60"])
    try:
        (tmp_path / "rwlock").write_text(json.dumps({"write": {"x": owner(process.pid)}}))
        found = one(check_locks(tmp_path))
    finally:
        process.kill()
        process.wait()
    assert found.state == "problem"
    assert "another program" in found.found


def test_rwlock_of_a_running_dvc_is_a_warning(tmp_path):
    code = "import time; time.sleep(60)  # dvc"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        time.sleep(0.5)
        (tmp_path / "rwlock").write_text(json.dumps({"write": {"x": owner(process.pid)}}))
        found = one(check_locks(tmp_path))
    finally:
        process.kill()
        process.wait()
    assert found.state == "warning"


def test_repository_lock_that_is_held_is_a_warning(tmp_path):
    (tmp_path / "lock").write_text("  4711\n")
    with (tmp_path / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        found = one(check_locks(tmp_path))
    assert found.state == "warning"
    assert "4711" in found.found


def test_locks_that_are_free_are_ok(tmp_path):
    (tmp_path / "lock").write_text("")
    (tmp_path / "rwlock").write_text('{"read": {}, "write": {}}')
    assert one(check_locks(tmp_path)).state == "ok"


@pytest.mark.parametrize(
    ("kind", "state"), [("reflink,copy", "ok"), ("hardlink", "problem"), ("reflink,symlink", "problem")]
)
def test_cache_that_a_write_can_reach_is_a_problem(toy, kind, state):
    (toy / ".dvc/config").write_text(f'[cache]\n    type = "{kind}"\n')
    assert one(check_dvc(toy)).state == state


def test_project_without_dvc_is_a_problem(tmp_path):
    assert one(check_dvc(tmp_path)).todo == "`dvc init`"


def test_git_without_a_commit_is_a_warning(tmp_path, toy):
    assert one(check_git(tmp_path)).state == "warning"
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert "no commit yet" in one(check_git(tmp_path)).found
    assert one(check_git(toy)).state == "ok"
