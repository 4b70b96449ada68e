"""One prompt: for every official template that the stage takes, training, chat, the file and the server begin an answer with the same ids."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.core.errors import StageError
from tests.oracle import llama3
from tests.oracle.prompts import Templated, ask_all, run_template, write_served
from tests.project import ROOT
from tests.stages.chat.test_spans_by_substitution import said

pytestmark = pytest.mark.slow

FIRST = [said("user", "where is it?"), said("assistant", "Up.")]
SECOND = [said("user", "and that?"), said("assistant", "Down.")]
THOUGHT = [{**FIRST[1], "reasoning": "Look up."}, {**SECOND[1], "reasoning": "Look\n\ndown."}]
TALKS = [
    FIRST,
    FIRST + SECOND,
    [said("system", "Be brief."), *FIRST, *SECOND],
    [FIRST[0], THOUGHT[0]],
    [FIRST[0], THOUGHT[0], SECOND[0], THOUGHT[1]],
    [FIRST[0], THOUGHT[0], *SECOND],
]


@pytest.fixture(scope="module")
def families(llama3_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Templated, Path]]:
    """By template that the stage takes: what it made, and the file that the server was asked with."""
    root = tmp_path_factory.mktemp("families")
    made = {}
    for path in sorted((llama3_folder / llama3.TEMPLATES).glob("*.jinja")):
        folder = root / path.stem
        try:
            made[path.stem] = run_template(folder, path.read_text(encoding="utf-8"), TALKS)
        except StageError:
            continue
        write_served(made[path.stem], root / path.stem)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    asked = [sys.executable, "-m", "tests.oracle.served_prompts", str(root)]
    ended = subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return {name: (one, root / name / "model.gguf") for name, one in made.items()}


@pytest.mark.parametrize("who", ["transformers", "chat --adapter", "chat", "serve"])
def test_prompt_is_that_of_training_in_every_family(
    families: dict[str, tuple[Templated, Path]], asked: Callable[[str], dict[str, list[list[int] | str]]], who: str
) -> None:
    differing = {
        name: sorted({one.talk for one, ids in zip(made.asked, asked(name)[who], strict=True) if ids != one.prompt})
        for name, (made, _) in families.items()
    }
    assert {name: talks for name, talks in differing.items() if talks} == {}
    assert sum(len(made.asked) for made, _ in families.values()) > 300


@pytest.fixture(scope="module")
def asked(families: dict[str, tuple[Templated, Path]]) -> Callable[[str], dict[str, list[list[int] | str]]]:
    """Everybody's prompts for a template."""
    known = {name: ask_all(made, file) for name, (made, file) in families.items()}
    return known.__getitem__
