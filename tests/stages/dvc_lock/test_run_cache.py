import fcntl
import json
from pathlib import Path
from typing import Any

import pytest

from stages.core.errors import StageError
from stages.core.project_code import md5
from stages.dvc_lock import run_cache
from stages.dvc_lock.hashes import object_path
from stages.dvc_lock.run_cache import find_false_runs, forget_stages, read_runs

COMMAND = "python -m stages.make --made data/made --record data/records/make.json"


def add_run(store: Path, key: str, value: str, *, recorded: float, said: float) -> Path:
    """An entry that says a rate, of a run whose record says a rate."""
    outputs = {"made": {"path": "data/made", "sha256": "", "files": {}}}
    parts: dict[str, Any] = {"code": {}, "environment": {}, "inputs": {}, "outputs": outputs}
    record = json.dumps({"stage": "make", "params": {"rate": recorded}, **parts}).encode()
    thing = object_path(store, md5(record))
    thing.parent.mkdir(parents=True, exist_ok=True)
    thing.write_bytes(record)
    entry = {
        "cmd": COMMAND,
        "params": {"params.yaml": {"make": {"rate": said}}},
        "outs": [{"path": "data/records/make.json", "md5": md5(record)}],
    }
    file = store / "runs" / key[:2] / key / value
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(entry))
    return file


def test_find_false_runs_finds_what_hands_out_a_record_of_other_params(tmp_path: Path) -> None:
    add_run(tmp_path, "aa1", "x", recorded=1, said=1)
    false = add_run(tmp_path, "aa2", "y", recorded=1, said=2)
    assert [run.file for run in find_false_runs(tmp_path)] == [false]
    (run,) = find_false_runs(tmp_path)
    assert [found.says for found in run.differences(tmp_path)] == ["make.rate: the record says 1, dvc.lock says 2"]


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"cmd": 3}', '{"cmd": "x", "newer": 1}', "\x00"])
def test_read_runs_passes_over_what_it_cannot_understand(tmp_path: Path, text: str) -> None:
    good = add_run(tmp_path, "aa1", "x", recorded=1, said=1)
    (good.parent / "y").write_text(text)
    (good.parent / "z").write_bytes(b"\xff")
    (good.parent / "folder").mkdir()
    assert [run.file for run in read_runs(tmp_path)] == [good]


def test_find_false_runs_says_nothing_of_a_record_that_is_gone_or_cut_off(tmp_path: Path) -> None:
    add_run(tmp_path, "aa1", "x", recorded=1, said=2)
    (thing,) = (tmp_path / "files").glob("*/*/*")
    thing.write_text(thing.read_text()[:-5])
    assert list(find_false_runs(tmp_path)) == []
    thing.unlink()
    assert list(find_false_runs(tmp_path)) == []


def test_forget_stages_leaves_the_rest_of_dvc_lock_to_the_byte(tmp_path: Path) -> None:
    rest = (
        "schema: '2.0'\nstages:\n  one:\n    cmd: a\n    outs:\n    - path: x\n      md5: '0123'\n      size: 1e-05\n"
    )
    gone = "  two:\n    cmd: python -m stages.two --a b --long cccccccccccccccccccccccccccccccccccccccccccc dddddddddddddddddddd\n"
    (tmp_path / "dvc.lock").write_text(rest + gone + "  three:\n    cmd: c\n")
    forget_stages(tmp_path, {"two", "unknown"})
    assert (tmp_path / "dvc.lock").read_text() == rest + "  three:\n    cmd: c\n"


def test_forget_stages_waits_for_dvc_and_gives_up_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    monkeypatch.setattr(run_cache, "PATIENCE", 0.2)
    with (tmp_path / ".dvc/tmp/lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StageError, match="another DVC command is at work here"):
            forget_stages(tmp_path, {"one"})
