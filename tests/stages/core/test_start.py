import re
from pathlib import Path

import pytest

from stages.core.errors import StageError
from stages.core.start import ReadSections, Start, without_runtime
from tests.project import ROOT


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = Path("params.yaml")
    file.write_text("train: {rate: 1, lora: {r: 8}}\nmerge: {into: base16}\nruntime: {workers: 1}\n")
    return file


VALUES = {"train": {"rate": 1, "lora": {"r": 8}}, "merge": {"into": "base16"}, "runtime": {"workers": 1}}


def test_refuse_changes_names_every_field_and_file_at_once(params: Path) -> None:
    Path("stages").mkdir()
    Path("stages/pins.txt").write_text("new")
    sections = [without_runtime(params, VALUES)]
    start = Start("train", sections, {}, None, None, {"stages/pins.txt": "0" * 64}, Path("stages/pins.txt"))
    params.write_text("train: {rate: 2, lora: {r: 8, a: 1}}\nmerge: {into: 3}\n")
    with pytest.raises(StageError) as raised:
        start.refuse_changes(resumes=True)
    said = str(raised.value)
    for line in (
        "train.rate: 1 when it began, 2 now",
        "train.lora.a: nothing when it began, 1 now",
        'merge.into: "base16" when it began, 3 now',
        "stages/pins.txt was changed while train was reading it",
        "goes on from its last checkpoint",
    ):
        assert line in said
    assert "runtime" not in said


def test_refuse_changes_of_nothing_changed_says_nothing(params: Path) -> None:
    Start("train", [ReadSections(params, {"train": VALUES["train"]})], {}, None, None, {}, None).refuse_changes(
        resumes=False
    )


def test_params_yaml_is_read_where_a_stage_begins_and_ends_and_nowhere_else() -> None:
    readers = {
        file.relative_to(ROOT / "stages").as_posix()
        for file in (ROOT / "stages").rglob("*.py")
        if re.search(r"\bread_params\(|params\.yaml\"\)", file.read_text(encoding="utf-8"))
    }
    # `check` reads dvc.yaml with it
    assert readers == {"core/params.py", "core/runner.py", "core/start.py", "check.py"}
