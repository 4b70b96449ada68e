"""The tiny base model of the model stages' tests, and adapters trained on it. Both are made once a session, when first asked for."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stages.core.asked_and_ran import Observation
from stages.core.execution import NOTES
from tests.project import ROOT
from tests.stages.training.support.tiny import ADDED, make_tokenizer, make_tokens, make_world


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base/` (untied, bf16), `tied/` (the same with tied embeddings) and `tokens/` (24 train, 10 held-out rows)."""
    root = tmp_path_factory.mktemp("tiny")
    make_world(root)
    return root


@pytest.fixture(scope="session")
def trained(tiny_base: Path) -> Path:
    """`tiny_base`, with adapters that were trained on it, each run by train_probe.py: in other processes, since Unsloth patches its own.

    `adapter`, `again` (in another process), `whole_step` (micro-batch 8), `flattened` (layout and micro-batch 8), `added` and `added_tied` (two tokens added),
    `tokens_added`, and `probe.json`.
    """
    make_tokenizer(tiny_base / "tokens_added" / "tokenizer", ADDED)
    make_tokens(tiny_base / "tokens_added", ADDED)
    for part in ("one", "two"):
        run_probe(tiny_base, "support.train_probe", part)
    return tiny_base


@pytest.fixture(scope="session")
def layouts(tiny_base: Path) -> dict[str, Any]:
    """What layout_probe.py found."""
    run_probe(tiny_base, "support.layout_probe")
    found: dict[str, Any] = json.loads((tiny_base / "layout_probe.json").read_text())
    return found


@pytest.fixture(scope="session")
def options(tiny_base: Path) -> Path:
    """`tiny_base` with the adapters that options_probe.py trained in `options/`, and in options.json why others were not."""
    run_probe(tiny_base, "support.options_probe")
    return tiny_base


@pytest.fixture(scope="module")
def world(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to train in, and `alone` in it: another, whose trainings know nothing of those."""
    folder = tmp_path_factory.mktemp("world")
    for place in (folder, folder / "alone"):
        place.mkdir(exist_ok=True)
        for name in ("base", "tokens"):
            (place / name).symlink_to(tiny_base / name)
    return folder


def run_probe(folder: Path, *command: str) -> None:
    """Run a module below tests/stages/training in another process that works in `folder`."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.stages.training.{command[0]}", *command[1:]],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def noted() -> Iterator[dict[str, Observation]]:
    """What is noted for the execution record while the test runs, {key: what was seen}; nothing is at its beginning, and nothing stays."""
    NOTES.observations.clear()
    NOTES.figures.clear()
    yield NOTES.observations
    NOTES.observations.clear()
    NOTES.figures.clear()
