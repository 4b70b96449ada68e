import json
from pathlib import Path
from typing import Any

import pytest

from stages.core.errors import StageError
from stages.core.files import sha256_file, sha256_files
from stages.core.inputs import read_inputs
from stages.core.producers import refuse_rotten


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stage `make` wrote data/made (two files) and data/one.json; its record says so."""
    monkeypatch.chdir(tmp_path)
    for name, text in {"data/made/a.txt": "a", "data/made/deep/b.txt": "b", "data/one.json": "{}"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    write_record("make")
    return tmp_path


def write_record(stage: str, **outputs: dict[str, str]) -> None:
    found = {
        "made": {"path": "data/made", "files": sha256_files(Path("data/made"))},
        "one": {"path": "data/one.json", "files": {"one.json": sha256_file(Path("data/one.json"))}},
    }
    for key, files in outputs.items():
        found[key]["files"] = files
    Path("data/records").mkdir(exist_ok=True)
    Path(f"data/records/{stage}.json").write_text(json.dumps({"stage": stage, "outputs": found}))


def read(*paths: str, uses: Any = None) -> None:
    inputs = {f"input{number}": Path(path) for number, path in enumerate(paths)}
    refuse_rotten(read_inputs("use", inputs, uses, None))


READS = ["data/made", "data/made/deep", "data/made/deep/b.txt", "data/one.json", "data/other.txt"]


@pytest.mark.parametrize("path", READS)
def test_input_that_is_what_its_stage_wrote_is_read(root: Path, path: str) -> None:
    (root / "data/other.txt").write_text("nobody's")
    read(path)


@pytest.mark.parametrize("path", READS[:-1])
def test_input_with_other_bytes_than_its_stage_wrote_is_refused_with_the_file_and_what_to_do(
    root: Path, path: str
) -> None:
    for file in ("data/made/deep/b.txt", "data/one.json"):
        (root / file).write_text("rotten")
    with pytest.raises(StageError, match=r"is not what make wrote, by its record data/records/make\.json") as raised:
        read(path)
    assert ("one.json" if "one" in path else "b.txt") in str(raised.value)
    assert "`retune restore --force make`" in str(raised.value)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda folder: (folder / "deep/b.txt").unlink(), "deep/b.txt is not there"),
        (lambda folder: (folder / "c.txt").write_text("c"), "c.txt is none of its files"),
    ],
)
def test_folder_with_a_file_too_many_or_too_few_is_refused(root: Path, edit: Any, said: str) -> None:
    edit(root / "data/made")
    with pytest.raises(StageError, match=said):
        read("data/made")


def test_folder_of_which_some_is_read_is_held_to_that(root: Path) -> None:
    (root / "data/made/a.txt").write_text("rotten")
    read("data/made", uses=lambda _params, _inputs: {"input0": ["deep"]})
    with pytest.raises(StageError, match=r"a\.txt is not what it wrote"):
        read("data/made", uses=lambda _params, _inputs: {"input0": ["a.txt"]})


@pytest.mark.usefixtures("root")
def test_old_record_of_a_stage_that_has_another_name_now_refuses_nothing() -> None:
    write_record("called_so_before", made={"a.txt": "0" * 64})
    read("data/made")
    write_record("make", made={"a.txt": "1" * 64})
    with pytest.raises(StageError, match="is not what make wrote"):
        read("data/made")


def test_stage_that_is_given_the_records_judges_them_itself(root: Path) -> None:
    (root / "data/one.json").write_text("rotten")
    read("data/one.json", "data/records")


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"outputs": ',
        "[]",
        '{"outputs": 3}',
        "{}",
        '{"outputs": {"made": {"path": "data/made"}}}',
        '{"outputs": {"x": {"path": 3, "files": 3}}}',
    ],
)
def test_what_is_no_record_proves_nothing_and_is_said(root: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    (root / "data/records/make.json").write_text(text)
    read("data/made", "data/one.json")
    assert "data/records/make.json is no whole record" in caplog.text


def test_record_with_fields_that_nobody_knows_is_read_all_the_same(root: Path) -> None:
    record = json.loads((root / "data/records/make.json").read_text())
    record["outputs"]["made"]["more"] = record["more"] = {"x": [1]}
    (root / "data/records/make.json").write_text(json.dumps(record))
    read("data/made")
    (root / "data/made/a.txt").write_text("rotten")
    with pytest.raises(StageError):
        read("data/made")
