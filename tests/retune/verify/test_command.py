"""`retune verify` as a command, on a small project; what it names on a whole one: tests/end_to_end/test_tampering.py."""

import json
import os
from pathlib import Path

import pytest

from retune.verify.cache import digest_entry, find_entry_problem
from retune.verify.command import describe
from retune.verify.kinds import KINDS, Difference
from tests.retune.conftest import call

HOSTILE = "x\nall is as it was written down\x1b[2K\x9b1A\N{RIGHT-TO-LEFT OVERRIDE}\udcff"


def test_outside_of_a_project_and_with_an_unknown_flag_the_exit_code_is_two(tmp_path, retune):
    assert retune("verify", cwd=tmp_path).returncode == 2
    assert retune("verify", "--deeper", cwd=tmp_path).returncode == 2


def test_kinds_are_listed(tmp_path, retune):
    assert json.loads(retune("verify", "--kinds", "--json", cwd=tmp_path).stdout) == KINDS
    assert len(retune("verify", "--kinds", cwd=tmp_path).stdout.splitlines()) == len(KINDS)


@pytest.mark.parametrize("field", ["path", "says", "field", "stage", "remedy"])
def test_text_out_of_files_forges_no_line_and_moves_no_cursor(field: str):
    values = {"kind": "output_changed", "path": "a", "says": "b", field: HOSTILE}
    said = describe(Difference(**values))
    assert len(said.splitlines()) == 2
    assert all(sign.isprintable() for line in said.splitlines() for sign in line)
    said.encode()


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "",
        "stages: {words: {cmd",
        "stages: 3",
        "\0",
        "<<<<<<< a",
        "schema: '9.0'\nstages: {}",
        "schema: '2.0'\nstages: {words: {cmd: 3}}",
    ],
)
def test_lock_that_is_none_is_a_difference_in_words(toy: Path, retune, text: str):
    (toy / "dvc.lock").write_text(text)
    done = retune("verify", "--deep", "--json", cwd=toy)
    assert done.returncode == 1
    assert {one["kind"] for one in json.loads(done.stdout)["differences"]} == {"lock_unreadable"}
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_source_that_was_edited_with_size_and_time_kept_is_seen_and_what_is_advised_has_dvc_see_it(toy: Path, retune):
    assert json.loads(call("dvc", "status", "--json", cwd=toy).stdout) == {}
    assert retune("verify", "--deep", cwd=toy).returncode == 0
    source = toy / "text.txt"
    stat = source.stat()
    source.write_text(source.read_text().replace("attic", "atTic"))
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert json.loads(call("dvc", "status", "--json", cwd=toy).stdout) == {}, "DVC believes size and time"
    (one,) = json.loads(retune("verify", "--json", cwd=toy).stdout)["differences"]
    assert one["path"] == "text.txt"
    assert "`touch text.txt`" in one["remedy"]
    source.touch()
    assert "words" in json.loads(call("dvc", "status", "--json", cwd=toy).stdout)
    assert call("dvc", "repro", cwd=toy).returncode == 0
    assert retune("verify", "--deep", cwd=toy).returncode == 0


@pytest.mark.slow
def test_entry_of_the_run_cache_is_named_as_dvc_names_it(toy: Path):
    from dvc.utils import dict_sha256

    entry = {"cmd": "x", "deps": [{"path": "a", "md5": "0", "size": 1}], "outs": [{"path": "b", "nfiles": 2}]}
    assert digest_entry(entry) == dict_sha256(entry, exclude=["size", "nfiles"])
    files = list((toy / ".dvc/cache/runs").glob("*/*/*"))
    assert files
    assert [find_entry_problem(file) for file in files] == [""] * len(files)
    content = files[0].read_text()
    for bent in (content.replace("cmd: ", "cmd: nice "), content[: len(content) // 2], "", "- 1", "\0"):
        files[0].write_text(bent)
        assert find_entry_problem(files[0])
