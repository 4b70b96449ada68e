"""The tiny base model of the model stages' tests, and adapters trained on it. Both are made once a session, when first asked for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stages.tiny import ADDED, make_tokenizer, make_tokens, make_world


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base/` (untied, bf16), `tied/` (the same with tied embeddings) and `tokens/` (24 train, 10 held-out rows)."""
    root = tmp_path_factory.mktemp("tiny")
    make_world(root)
    return root


@pytest.fixture(scope="session")
def trained(tiny_base: Path) -> Path:
    """`tiny_base`, with adapters that were trained on it, each run by train_probe.py: in other processes, since Unsloth patches its own.

    `adapter`, `again` (in another process), `whole_step` (micro-batch 8), `added` and `added_tied` (two tokens added),
    `tokens_added`, and `probe.json`.
    """
    make_tokenizer(tiny_base / "tokens_added" / "tokenizer", ADDED)
    make_tokens(tiny_base / "tokens_added", ADDED)
    for part in ("one", "two"):
        command = [sys.executable, str(Path(__file__).with_name("train_probe.py")), part]
        project = str(Path(__file__).parents[2])
        done = subprocess.run(
            command,
            cwd=tiny_base,
            env={**os.environ, "PYTHONPATH": project},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return tiny_base
