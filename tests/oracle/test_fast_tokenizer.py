"""The fast tokenizer against the reference over 20,000 conversations of real text, with the Llama-3 vocabulary."""

import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.tokenization.loading.fast import FastEncoder, ReferenceEncoder, open_encoder
from stages.tokenization.loading.tokenizer_folder import load_tokenizer
from tests.oracle import llama3
from tests.oracle.dialogues import made_dialogues

pytestmark = pytest.mark.slow

ROWS, BATCH = 20_000, 1_000


@pytest.fixture(scope="module")
def opened(llama3_folder: Path) -> Any:
    source = (llama3_folder / llama3.TOKENIZER / "tokenizer.json").read_bytes()
    reference = load_tokenizer(source)
    return open_encoder(source, reference), ReferenceEncoder(reference)


def real_text() -> str:
    """Prose and code of the packages installed here."""
    parts, size = [], 0
    for path in sorted(Path(sysconfig.get_paths()["purelib"]).rglob("*.py")):
        part = path.read_text(encoding="utf-8", errors="ignore")
        parts.append(part)
        size += len(part)
        if size > 20_000_000:
            break
    return "".join(parts)


def conversations() -> Iterator[list[str]]:
    draw, text = random.Random(0), real_text()
    hard = made_dialogues(ROWS // 10, seed=5)
    for start in range(0, ROWS, BATCH):
        batch = []
        for number in range(start, start + BATCH):
            turns = hard[number // 10] if number % 10 == 0 else []
            contents = [turn["content"] for turn in turns] or [
                text[at : at + draw.choice([40, 300, 1_500])] for at in draw.choices(range(len(text)), k=2)
            ]
            batch.append(
                "<|begin_of_text|>"
                + "".join(f"<|start_header_id|>user<|end_header_id|>\n\n{content}<|eot_id|>" for content in contents)
            )
        yield batch


@pytest.mark.parametrize("method", ["encode", "encode_plain"])
def test_ids_of_20000_conversations_equal_the_references(opened: Any, method: str) -> None:
    fast, reference = opened
    assert isinstance(fast, FastEncoder)
    assert fast.library.encode_plain is None, "gigatoken is meant"
    rows = 0
    for batch in conversations():
        (ids, lengths), (right, right_lengths) = getattr(fast, method)(batch), getattr(reference, method)(batch)
        assert np.array_equal(ids, right)
        assert np.array_equal(lengths, right_lengths)
        rows += len(batch)
    assert rows == ROWS
