"""What DVC notes down falsely is found when the stage has ended: on a project whose stages write records."""

import subprocess

import pytest

from flows.run import begin_run, carry_out_stage
from tests.stages.dvc_lock.conftest import judged, made_judged  # noqa: F401 - fixtures
from tests.stages.dvc_lock.test_with_dvc import EDIT_PARAMS, FIELD, false_run

pytestmark = pytest.mark.slow


def carry_out(toy, *stages):
    """[(state, message)], and all lines."""
    lines = []
    with begin_run(toy.root, lines.append) as run:
        return [carry_out_stage(run, stage, lines.append) for stage in stages], "\n".join(lines)


@pytest.fixture
def toy(judged):  # noqa: F811 - the fixture
    subprocess.run(["git", "init", "-q"], cwd=judged.root, check=True)
    subprocess.run(
        ["git", "add", "-f", "window.txt", "stages"], cwd=judged.root, check=True
    )  # dvc.yaml names not all of it
    return judged


def test_false_run_that_dvc_hands_out_is_forgotten_and_made_again(toy):
    lock = (toy.root / "dvc.lock").read_bytes()
    false_run(toy)
    (toy.root / "dvc.lock").write_bytes(lock)  # the run cache stays: it would hand out a model of 0.002 for 0.0001
    outcomes, said = carry_out(toy, "make", "use")
    assert [one.state for one in outcomes] == ["Ran", "Ran"]
    assert FIELD in said
    assert toy.text("data/made/model.txt") == "rows trained at 0.0001"
    assert toy.lock()["make"]["params"]["params.yaml"]["make"]["rate"] == 0.0001
    assert [one.state for one in carry_out(toy, "make")[0]] == ["Cached"]


def test_edit_in_the_window_fails_the_stage_at_once_and_home_stays_as_it_was(toy):
    toy.edit("params.yaml", "first: 1", "first: 2")
    toy.window(EDIT_PARAMS)  # where the stage works: in the snapshot
    before = (toy.root / "dvc.lock").read_bytes(), toy.text("data/records/make.json")
    outcome = carry_out(toy, "make")[0][0]
    assert outcome.state == "Failed"
    assert FIELD in outcome.message
    assert ((toy.root / "dvc.lock").read_bytes(), toy.text("data/records/make.json")) == before
    toy.window("")
    assert [one.state for one in carry_out(toy, "make")[0]] == ["Ran"]
    assert toy.text("data/made/model.txt") == "rows trained at 0.002"
