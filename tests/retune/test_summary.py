from pathlib import Path

from retune.summary import changed_since
from stages.files import write_json


def test_changed_since_names_the_sections_that_are_not_those_of_the_run(tmp_path: Path) -> None:
    for stage in ("train", "merge"):
        write_json(tmp_path / "records" / f"{stage}.json", {"params": {"steps": 3}})
    parameters = tmp_path / "params.yaml"
    parameters.write_text("train: {steps: 4}\nmerge: {steps: 3}\nruntime: {workers: 9}\n")
    assert changed_since(tmp_path, parameters) == ["train"]
