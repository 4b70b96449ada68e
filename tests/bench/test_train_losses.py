"""The judge of the training benches, and the benches' conversations: on curves, and on a tiny model that really trains."""

import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.bench.train_data import ROWS, WORDS, conversations, micro_batches
from tests.bench.train_losses import ENOUGH, judge
from tests.project import ROOT
from tests.stages.training.support.tiny import make_tokenizer

FALLING = [12.4, 12.2, 11.8, 11.2, 10.5, 9.8, 9.0, 8.3, 7.7]
FLAT = [12.4, 12.41, 12.39, 12.4, 12.42, 12.38, 12.4, 12.4, 12.39]


def curve(name: str, losses: list[float]) -> dict[str, object]:
    return {"row": name, "losses": losses}


def test_row_whose_loss_falls_and_follows_the_recipe_passes() -> None:
    ours = [loss + 0.05 * (12.4 - loss) for loss in FALLING]
    judge([curve("recipe", FALLING), curve("same", ours), curve("packed", FALLING)], ("recipe", "same"))


@pytest.mark.parametrize("losses", [FLAT, [*FALLING, math.nan], FALLING[::-1]])
def test_row_that_does_not_train_fails_the_bench(losses: list[float]) -> None:
    with pytest.raises(SystemExit, match=r"packed (does not train|has a loss that is no number)"):
        judge([curve("packed", losses)])


def test_row_of_few_steps_is_not_judged_by_its_fall() -> None:
    judge([curve("packed", FLAT[: ENOUGH - 1])])


@pytest.mark.parametrize(
    "ours", [[12.45, *FALLING[1:]], [loss + 0.3 * (12.4 - loss) for loss in FALLING], [loss - 0.3 for loss in FALLING]]
)
def test_row_that_trains_otherwise_than_the_recipe_fails_the_bench(ours: list[float]) -> None:
    with pytest.raises(SystemExit, match="same does not train like recipe: at step"):
        judge([curve("same", ours), curve("recipe", FALLING)], ("recipe", "same"))


def test_rows_that_failed_or_are_missing_fail_the_bench() -> None:
    with pytest.raises(SystemExit) as error:
        judge([{"row": "same", "error": "OutOfMemoryError: none left"}], (), ["recipe has no figures"])
    assert str(error.value) == "recipe has no figures\nsame failed: OutOfMemoryError: none left"


def test_conversations_are_the_same_in_every_row_of_the_recipes_mathematics() -> None:
    assert conversations(ROWS["same"], 192)[:96] == conversations(ROWS["recipe"], 96)


def test_conversations_have_few_words_and_a_quarter_without_a_label() -> None:
    rows = conversations(ROWS["packed"], 400)
    words = Counter(number for ids, _ in rows for number in ids)
    assert len(words) <= WORDS
    most, hundredth = (words.most_common(100)[place][1] for place in (0, 99))
    assert 50 < most / hundredth < 200, "Zipf's law"
    assert max(words) > 100_000, "they are from the whole vocabulary"
    assert all(labels == [-100] * (len(ids) // 4) + ids[len(ids) // 4 :] for ids, labels in rows)
    assert 420 < sum(len(ids) for ids, _ in rows) / len(rows) < 540


@pytest.mark.parametrize("name", ["packed", "packed-6gb-3k", "long", "8b-nf4"])
def test_packed_steps_have_all_their_micro_batches_nearly_full(name: str) -> None:
    row = ROWS[name]
    steps = micro_batches(row, row.steps)
    assert len(steps) == row.steps
    for step in steps:
        assert len(step) == row.parts
        assert all(0.95 * row.tokens <= sum(len(ids) for ids, _ in part) <= row.tokens for part in step)


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with random weights and a loud head, which an adapter moves as fast as that of a large model."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("learner") / "model"
    make_tokenizer(folder, [])
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config)
    model.lm_head.weight.data *= 20
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def bench(model: Path, out: Path, *names: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "tests.bench.train", str(model), str(out), *names]
    return subprocess.run(command, cwd=out, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_bench_of_a_model_that_learns_prints_its_rows_and_they_agree(learner: Path, tmp_path: Path) -> None:
    done = bench(learner, tmp_path, "same", "packed-6gb", "recipe")
    assert done.returncode == 0, done.stderr
    lines = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in done.stdout.splitlines() if "|" in line}
    assert set(lines) == {
        "row",
        "---|---|---|---|---|---|---|---|---|---|---|---|---|---",
        "packed-6gb",
        "same",
        "recipe",
    }
    first, last, off = (lines["row"].index(name) for name in ("first loss", "last", "off recipe"))
    assert float(lines["same"][first]) - float(lines["same"][last]) > 2
    assert 0 < float(lines["same"][off]) < 0.1


@pytest.mark.slow
def test_bench_of_a_model_that_learns_nothing_fails_and_still_prints_its_row(learner: Path, tmp_path: Path) -> None:
    import torch
    from transformers import LlamaForCausalLM

    deaf = tmp_path / "deaf"
    make_tokenizer(deaf, [])
    model = LlamaForCausalLM.from_pretrained(learner, dtype=torch.bfloat16)
    # whatever an adapter does to the hidden states, the head hardly hears it
    model.lm_head.weight.data *= 0.01
    model.save_pretrained(deaf)
    done = bench(deaf, tmp_path, "same")
    assert done.returncode == 1
    assert "| same | " in done.stdout
    assert "same does not train: its loss went from 6.9" in done.stderr
