"""CONTRIBUTING.md's stage is added as the page says, word for word, and runs."""

import re
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.end_to_end.conftest import copy_project
from tests.project import ROOT, STAGES, upstream

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## Adding a stage")[2].partition("\n## ")[0]
STEPS = re.split(r"^\*\*\d\. ", SECTION, flags=re.MULTILINE)[1:]


def blocks(step: str, language: str) -> list[str]:
    """The blocks of code of a step, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", step, flags=re.MULTILINE | re.DOTALL)


def apply(text: str, change: str) -> str:
    """The text with a block of a diff in it: lines without a sign are where, and stand in the text once."""
    lines = change.splitlines(keepends=True)
    old = "".join(line[1:] for line in lines if line[0] in " -")
    new = "".join(line[1:] for line in lines if line[0] in " +")
    assert text.count(old) == 1, f"this is not, or not once, in the file:\n{old}"
    return text.replace(old, new)


def carry_out_page(root: Path) -> None:
    """Make the page's files and changes in a copy of the project."""
    stage, graph, preset, test, _ = STEPS
    for step, path in ((stage, "stages/mask_addresses.py"), (test, "tests/stages/test_mask_addresses.py")):
        assert f"`{path}`" in step.split("\n", 1)[0]
        (content,) = blocks(step, "python")
        (root / path).write_text(content, encoding="utf-8")
    for step, path in ((graph, "dvc.yaml"), (preset, "presets/llama-3.2-3b-finetome.yaml")):
        assert path in step.split("\n", 1)[0]
        for change in blocks(step, "diff"):
            file = root / path
            file.write_text(apply(file.read_text(encoding="utf-8"), change), encoding="utf-8")


@pytest.mark.slow
def test_stage_of_the_page_can_be_added_as_it_says_and_runs(tmp_path: Path) -> None:
    if "data/messages" not in STAGES["template"]["deps"]:
        pytest.skip("another stage stands where the page puts its example")
    copy = copy_project(tmp_path)
    carry_out_page(copy.root)
    copy.call("retune", "use", "demo", "--set", "fetch_data.limit=400")
    assert "\nmask_addresses:  " in (copy.root / "params.yaml").read_text(encoding="utf-8")
    tests = [
        "tests/test_keys.py",
        "tests/test_house.py",
        "tests/test_architecture.py",
        "tests/retune/use/test_meanings.py",
    ]
    # a folder of its own: pytest takes away from others the right to enter the one that all share, and test_places gives it
    copy.call(
        sys.executable,
        "-m",
        "pytest",
        f"--basetemp={tmp_path.with_name(f'{tmp_path.name}-tests')}",
        *tests,
        "tests/stages/test_mask_addresses.py",
    )
    for command in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["lint-imports"]):
        copy.call(*command)
    assert copy.repro("template") == {*upstream("template"), "mask_addresses"}
    before, after = (pq.read_table(copy.root / f"data/{name}/messages.parquet") for name in ("messages", "masked"))
    assert after.equals(before), "the demo has no address in it"
    assert copy.repro("template") == set()
    left = copy.call("git", "status", "--short", "--untracked-files=all").stdout
    assert "data/masked" not in left, "git would take what the stage writes"


def test_page_names_the_stage_by_a_free_name() -> None:
    assert not (ROOT / "stages/mask_addresses.py").exists()
    assert len(STEPS) == 5
