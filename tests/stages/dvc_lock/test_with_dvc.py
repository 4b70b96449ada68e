"""The window between a stage's comparison and DVC's reading, with the real DVC: what it leaves, that it is found, and that the remedy works."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from tests.stages.dvc_lock.conftest import Toy, make_toy

SLOW = pytest.mark.slow

EDIT_PARAMS = "file = Path('params.yaml'); file.write_text(file.read_text().replace('0.002', '0.0001'))"
FIELD = "make.rate: the record says 0.002, dvc.lock says 0.0001"


def false_run(toy: Toy) -> None:
    """Leave what the window leaves: dvc.lock and the run cache say 0.0001 of a model that was made with 0.002."""
    toy.window(EDIT_PARAMS)
    toy.repro("--force", "--single-item", "make")
    toy.window("")
    assert toy.lock()["make"]["params"]["params.yaml"]["make"]["rate"] == 0.0001
    assert toy.text("data/made/model.txt") == "rows trained at 0.002"


@SLOW
def test_params_edited_in_the_window_are_named_and_forgotten_and_repro_makes_the_model_of_the_new_ones(
    judged: Toy,
) -> None:
    judged.edit("params.yaml", "first: 1", "first: 2")
    judged.window(EDIT_PARAMS)
    ended = judged.dvc("repro")
    judged.window("")
    assert ended.returncode != 0
    assert f"judge: {FIELD}. The model is what the record says." in ended.stderr
    assert "Traceback" not in ended.stderr
    assert json.loads(judged.text("data/verdict.json"))["passed"] is False
    assert "make" not in judged.lock()
    assert "use" in judged.lock()
    said = judged.repro()
    assert "Running stage 'make'" in said
    assert "is cached - skipping run" not in said
    assert judged.text("data/made/model.txt") == "rows trained at 0.0001"
    assert judged.lock()["make"]["params"]["params.yaml"]["make"]["rate"] == 0.0001
    assert json.loads(judged.text("data/verdict.json"))["passed"] is True
    assert "Running" not in judged.repro()


@SLOW
def test_false_entry_of_the_run_cache_that_dvc_hands_out_is_found_although_no_output_is_another(judged: Toy) -> None:
    lock = (judged.root / "dvc.lock").read_bytes()
    false_run(judged)
    (judged.root / "dvc.lock").write_bytes(lock)  # as a clone has it, or `git checkout`: the run cache stays
    handed = judged.dvc("repro")
    assert "Stage 'make' is cached - skipping run" in handed.stdout
    assert "Stage 'use' didn't change" in handed.stdout
    assert handed.returncode != 0
    assert FIELD in handed.stderr
    said = judged.repro()
    assert "Running stage 'make'" in said
    assert judged.text("data/made/model.txt") == "rows trained at 0.0001"
    # the honest run of before is still there
    judged.edit("params.yaml", "0.0001", "0.002")
    assert "Stage 'make' is cached - skipping run" in judged.repro()
    assert judged.text("data/made/model.txt") == "rows trained at 0.002"


@SLOW
@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (
            "Path('source/a.txt').write_text('others')",
            "source: make read other bytes than dvc.lock has",
        ),
        (
            "file = Path('stages/make.py'); file.write_text(file.read_text().replace('trained at', 'tuned at'))",
            "stages/make.py: dvc.lock has other code than make ran",
        ),
        (
            "file = Path('params.yaml'); file.write_text(file.read_text().replace('first: 1', 'first: 1, second: 2'))",
            "make.parts.second: the record says nothing, dvc.lock has it",
        ),
    ],
)
def test_what_else_is_edited_in_the_window_is_named_and_made_again(judged: Toy, edit: str, said: str) -> None:
    judged.dvc("cache", "dir", "../elsewhere")
    judged.window(edit)
    ended = judged.dvc("repro", "--force")
    judged.window("")
    assert ended.returncode != 0
    assert said in ended.stderr
    assert list((judged.root / "../elsewhere/runs").glob("*/*/*")), "the others' runs stay"
    assert "Running stage 'make'" in judged.repro()
    assert json.loads(judged.text("data/verdict.json"))["passed"] is True


def flip_a_byte(file: Path) -> None:
    """Rot: another byte, the same size and times."""
    stat = file.stat()
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.chmod(0o644)
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize(
    "place", [pytest.param("cache", marks=pytest.mark.slow), pytest.param("workspace", marks=pytest.mark.long)]
)
def test_rotten_input_that_dvc_believes_is_refused_and_the_remedy_as_it_is_printed_mends_it(
    tmp_path: Path, place: str
) -> None:
    judged = make_toy(tmp_path / "toy")
    file = judged.root / "data/made/model.txt"
    good = file.read_bytes()
    if place == "cache":
        (cached,) = [thing for thing in judged.root.glob(".dvc/cache/files/md5/*/*") if thing.read_bytes() == good]
        flip_a_byte(cached)
        shutil.rmtree(file.parent)
        assert judged.dvc("checkout").returncode == 0
        assert file.read_bytes() != good, "DVC brings back what is damaged"
    else:
        flip_a_byte(file)
    judged.edit("params.yaml", "times: 2", "times: 3")
    ended = judged.dvc("repro")
    assert "Stage 'make' didn't change" in ended.stdout
    assert ended.returncode != 0
    assert "use: data/made is not what make wrote, by its record data/records/make.json: model.txt" in ended.stderr
    remedy = re.findall(r"`([^`]+)`", ended.stderr)[0]
    assert remedy == "retune restore --force make"
    restored = judged.retune(*remedy.split()[1:])
    if place == "cache":
        assert restored.returncode == 1
        _pull, again = re.findall(r"`([^`]+)`", restored.stdout)
        assert again == "dvc repro make"
        judged.repro(*again.split()[2:])
    assert file.read_bytes() == good
    judged.repro()
    assert judged.text("data/used") == good.decode() * 3
