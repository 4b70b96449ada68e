"""The window between a stage's comparison and DVC's reading, with the real DVC: what it leaves, that it is found, and that the remedy works."""

import json

import pytest

from tests.stages.dvc_lock.conftest import Toy

pytestmark = pytest.mark.slow

EDIT_PARAMS = "file = Path('params.yaml'); file.write_text(file.read_text().replace('0.002', '0.0001'))"
FIELD = "make.rate: the record says 0.002, dvc.lock says 0.0001"


def false_run(toy: Toy) -> None:
    """Leave what the window leaves: dvc.lock and the run cache say 0.0001 of a model that was made with 0.002."""
    toy.window(EDIT_PARAMS)
    toy.repro("--force", "--single-item", "make")
    toy.window("")
    assert toy.lock()["make"]["params"]["params.yaml"]["make"]["rate"] == 0.0001
    assert toy.text("data/made/model.txt") == "rows trained at 0.002"


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
    judged.window(edit)
    ended = judged.dvc("repro", "--force")
    judged.window("")
    assert ended.returncode != 0
    assert said in ended.stderr
    assert "Running stage 'make'" in judged.repro()
    assert json.loads(judged.text("data/verdict.json"))["passed"] is True
