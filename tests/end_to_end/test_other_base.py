"""A base that somebody else trained: no chat template, no control tokens, a splitting rule llama.cpp's converter does not list; and a .csv, all of whose rows are trained."""

import csv
import json
import random
from pathlib import Path

import pytest

from tests.end_to_end.conftest import SMALL, Project, copy_project

pytestmark = pytest.mark.slow

QUESTIONS = [(f"what is {a} plus {b}?", f"{a} plus {b} is {a + b}.") for a in range(20) for b in range(10)]


def make_base(folder: Path) -> None:
    """A random Llama with tied embeddings and a GPT-2-like tokenizer that knows one control token."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([text for pair in QUESTIONS for text in pair], trainer)
    words = tokenizer.get_vocab_size()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=words, hidden_size=256, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, max_position_embeddings=512,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project with that base and a .csv brought in by `retune use`, and carried out."""
    folder = tmp_path_factory.mktemp("other")
    make_base(folder / "base")
    pairs = [*QUESTIONS, ("", "no question")]
    random.Random(0).shuffle(pairs)
    with (folder / "sums.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("question", "answer"), *pairs])
    project = copy_project(tmp_path_factory.mktemp("other_project"))
    project.params(lambda values: [values[section].update(keys) for section, keys in SMALL.items()])
    chosen = [
        "template.chat_template=chatml",
        "template.missing_control_tokens=add",
        "fetch_data.limit=null",
        "standardize.heldout_fraction=0",
        "audit.min_heldout_rows=0",
        "train.eval_steps=2",
        "evaluate.exact_match=false",
    ]
    project.call(
        "retune",
        "use",
        "--model",
        str(folder / "base"),
        "--data",
        str(folder / "sums.csv"),
        *(word for key in chosen for word in ("--set", key)),
    )
    project.repro()
    return project


def test_other_base_runs_through_and_every_row_is_accounted_for(other: Project) -> None:
    verdict = json.loads((other.root / "data/audit/verdict.json").read_text())
    assert verdict["passed"], verdict["reasons"]
    summary = json.loads((other.root / "data/messages/summary.json").read_text())
    assert (summary["raw"], summary["rejected"]) == (201, 1)


def test_added_control_tokens_are_in_merged_model_and_gguf(other: Project) -> None:
    from gguf import GGUFReader
    from safetensors import safe_open

    tokens = json.loads((other.root / "data/tokens/summary.json").read_text())
    added = tokens["control_tokens"]["added"]
    assert {"<|im_start|>", "<|im_end|>"} <= set(added)
    config = json.loads((other.root / "data/merged/config.json").read_text())
    with safe_open(other.root / "data/merged/model.safetensors", "np") as merged:
        rows = merged.get_slice("model.embed_tokens.weight").get_shape()[0]
    file = GGUFReader(next((other.root / "data/gguf").glob("*.gguf")))
    listed = len(file.fields["tokenizer.ggml.tokens"].data)
    assert rows == config["vocab_size"] == listed > max(added.values())


def test_changed_csv_runs_from_fetch_data_on(other: Project) -> None:
    file = other.root / "data/custom/sums.csv"
    file.write_text(file.read_text() + "what is 1 plus 99?,1 plus 99 is 100.\n")
    assert other.repro("standardize") == {"fetch_data", "standardize"}
    assert json.loads((other.root / "data/messages/summary.json").read_text())["raw"] == 202


def test_all_bad_dataset_fails_with_the_counts_and_keeps_the_crash_away(other: Project) -> None:
    (other.root / "data/custom/sums.csv").write_text("question,answer\n,\n,\n")
    ended = other.call("dvc", "repro", "standardize", check=False)
    assert ended.returncode != 0
    assert "empty_content" in ended.stderr
    assert "Traceback" not in ended.stderr
