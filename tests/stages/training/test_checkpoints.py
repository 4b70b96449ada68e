import os
from pathlib import Path

import pytest

from stages.core.errors import StageError
from stages.training.checkpoints import Checkpoints, hold_training_lock, read_state


@pytest.mark.slow
def test_latest_is_the_last_saved_of_these_inputs(tmp_path: Path) -> None:
    import torch

    ours, theirs = Checkpoints(tmp_path, {"lr": 1}), Checkpoints(tmp_path, {"lr": 2})
    assert ours.find_latest() is None
    for step in (9, 10, 11):
        ours.save(step, {"step": step, "values": [torch.ones(2) * step]})
    file = ours.find_latest()
    assert file is not None
    state = read_state(file)
    assert state["step"] == 11
    assert state["values"][0].tolist() == [11.0, 11.0]
    assert theirs.find_latest() is None
    assert [path.name for path in ours.folders()] == ["step-00000010", "step-00000011"]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["bytes", "state", "digest", "empty digest"])
def test_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = Checkpoints(tmp_path, {})
    for step in (1, 2):
        checkpoints.save(step, {"step": step})
    last = checkpoints.folders()[-1]
    state, digest = last / "state.pt", last / "state.sha256"
    if damage == "bytes":
        data = bytearray(state.read_bytes())
        data[len(data) // 2] ^= 1
        state.write_bytes(bytes(data))
    elif damage == "empty digest":
        digest.write_text("")
    else:
        (state if damage == "state" else digest).unlink()
    file = checkpoints.find_latest()
    assert file is not None
    assert read_state(file) == {"step": 1}
    assert "step-00000002 is not whole" in caplog.text


@pytest.mark.slow
def test_checkpoint_that_would_run_code_is_not_loaded(tmp_path: Path) -> None:
    import pickle

    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save(1, {"step": Path("a/b")})
    file = checkpoints.find_latest()
    assert file is not None
    with pytest.raises(pickle.UnpicklingError):
        read_state(file)


def test_tidying_keeps_own_checkpoints_and_the_newest_of_others(tmp_path: Path) -> None:
    own = Checkpoints(tmp_path, {"own": 1})
    (own.folder / ".step-00000003.partial").mkdir(parents=True)
    (own.folder / "step-00000002").mkdir()
    for number, name in enumerate(["old", "older", "new", "newest"]):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (number, number))
    own.tidy()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["new", "newest", own.folder.name])
    assert [path.name for path in own.folder.iterdir()] == ["step-00000002"]


def test_lock_is_free_again_when_its_holder_has_ended(tmp_path: Path) -> None:
    with (
        hold_training_lock(tmp_path),
        pytest.raises(StageError, match=f"process {os.getpid()}"),
        hold_training_lock(tmp_path),
    ):
        pass
    with hold_training_lock(tmp_path):
        pass
