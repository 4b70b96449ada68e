"""One prompt: for every official template that the stage takes, training, chat, the file and the server begin an answer with the same ids."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from stages.core.errors import StageError
from tests.oracle import llama3
from tests.oracle.prompts import Templated, ask_all, write_served
from tests.oracle.templates import describe, try_template, write_page
from tests.project import ROOT

pytestmark = pytest.mark.slow

Prompts = Mapping[str, list[list[int] | str]]
"""By who answers, the prompts of all that was asked."""


@pytest.fixture(scope="module")
def tried(llama3_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Templated | StageError]:
    """By template, what the stage made of it."""
    root = tmp_path_factory.mktemp("families")
    paths = sorted((llama3_folder / llama3.TEMPLATES).glob("*.jinja"))
    return {path.stem: try_template(path, root / path.stem) for path in paths}


@pytest.fixture(scope="module")
def prompts(tried: dict[str, Templated | StageError], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Prompts]:
    """By template that the stage takes, everybody's prompts."""
    root = tmp_path_factory.mktemp("files")
    made = {name: one for name, one in tried.items() if isinstance(one, Templated)}
    for name, one in made.items():
        write_served(one, root / name)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    asked = [sys.executable, "-m", "tests.oracle.served_prompts", str(root)]
    ended = subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return {name: ask_all(one, root / name / "model.gguf") for name, one in made.items()}


@pytest.mark.parametrize("who", ["transformers", "chat --adapter", "chat", "serve"])
def test_prompt_is_that_of_training_in_every_family(
    tried: dict[str, Templated | StageError], prompts: dict[str, Prompts], who: str
) -> None:
    asked = {name: one.asked for name, one in tried.items() if isinstance(one, Templated)}
    differing = {
        name: sorted({one.talk for one, ids in zip(asked[name], found[who], strict=True) if ids != one.prompt})
        for name, found in prompts.items()
    }
    assert {name: talks for name, talks in differing.items() if talks} == {}
    assert len(prompts) >= 64
    assert sum(map(len, asked.values())) > 400


def test_page_of_templates_says_what_the_stage_does(tried: dict[str, Templated | StageError]) -> None:
    lines = [describe(name, made) for name, made in tried.items()]
    assert "DISAGREES" not in {line.outcome for line in lines}
    said = (ROOT / "docs/templates.md").read_text(encoding="utf-8")
    assert said == write_page(lines), "`python -m tests.oracle.templates > docs/templates.md` writes it"
