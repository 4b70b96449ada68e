from pathlib import Path

from ruamel.yaml import YAML

from retune.inspect.trial_run import TRIED, find_untried
from tests.project import ROOT, STAGES, upstream


def test_stages_that_are_tried_are_all_there_are_before_the_tokens() -> None:
    assert set(upstream("template")) == TRIED
    assert find_untried(ROOT) == []


def test_stage_between_them_is_named_and_one_beside_them_is_not(tmp_path: Path) -> None:
    added = {"deps": ["data/messages"], "outs": ["data/masked"]}
    beside = {"deps": ["data/messages"], "outs": ["data/lengths"]}
    template = {**STAGES["template"], "deps": ["data/masked", "data/tokenizer"]}
    # wherever they stand in the file
    YAML().dump({"stages": {**STAGES, "template": template, "mask": added, "measure": beside}}, tmp_path / "dvc.yaml")
    assert find_untried(tmp_path) == ["mask"]
