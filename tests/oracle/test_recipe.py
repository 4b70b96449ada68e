"""The recipe's own functions as the oracle: standardize_sharegpt, get_chat_template, SFTTrainer, train_on_responses_only.

Unsloth must be imported before transformers and trl, and patches them: so the recipe runs in a process of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stages.contracts.tokens import NOT_TRAINED, TRAIN, read_tokens
from tests.oracle import llama3
from tests.oracle.conftest import Templated, llama_params
from tests.oracle.dialogues import made_dialogues

pytestmark = pytest.mark.slow

UNSLOTH_DAY = "26 July 2024"
"""The day that Unsloth's "llama-3.1" writes when nobody names one."""
BOS = 128000

RECIPE = """
import json, sys
from unsloth.chat_templates import get_chat_template, standardize_sharegpt, train_on_responses_only
from datasets import Dataset
from transformers import AutoTokenizer, DataCollatorForSeq2Seq, LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

rows, tokenizer, scratch, out = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(tokenizer, pad_token="<|reserved_special_token_0|>")
model = LlamaForCausalLM(LlamaConfig(vocab_size=128256, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                                     num_attention_heads=1, num_key_value_heads=1, tie_word_embeddings=True))
tokenizer = get_chat_template(tokenizer, chat_template="llama-3.1")
data = standardize_sharegpt(Dataset.from_list(json.load(open(rows, encoding="utf-8"))))
data = data.map(lambda row: {"text": tokenizer.apply_chat_template(row["conversations"], tokenize=False)})
trainer = SFTTrainer(
    model=model, train_dataset=data, processing_class=tokenizer, data_collator=DataCollatorForSeq2Seq(tokenizer=tokenizer),
    args=SFTConfig(output_dir=scratch, dataset_text_field="text", max_length=100_000, packing=False, report_to="none",
                   max_steps=1))
trainer = train_on_responses_only(
    trainer,
    instruction_part="<|start_header_id|>user<|end_header_id|>\\n\\n",
    response_part="<|start_header_id|>assistant<|end_header_id|>\\n\\n",
)
made = [{"input_ids": list(row["input_ids"]), "labels": list(row["labels"])} for row in trainer.train_dataset]
json.dump(made, open(out, "w", encoding="utf-8"))
"""

NAMES = {"user": "human", "assistant": "gpt", "system": "system"}

PLAIN = made_dialogues(150, seed=2, edges=False)
EDGES = [
    [{"role": "user", "content": "hi"}, {"role": "assistant", "content": content}]
    for content in (" a blank", "\na line end", "none")
]


@pytest.fixture(scope="module")
def recipe_rows(llama3_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The rows that the recipe trains on, of PLAIN and then of EDGES."""
    folder = tmp_path_factory.mktemp("recipe")
    rows = [
        {"conversations": [{"from": NAMES[turn["role"]], "value": turn["content"]} for turn in dialogue]}
        for dialogue in PLAIN + EDGES
    ]
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "recipe.py").write_text(RECIPE, encoding="utf-8")
    quiet = {"HF_HUB_OFFLINE": "1", "UNSLOTH_COMPILE_LOCATION": str(folder / "compiled"), "DO_NOT_TRACK": "1"}
    done = subprocess.run(
        [sys.executable, "recipe.py", "rows.json", str(llama3_folder / llama3.TOKENIZER), "scratch", "made.json"],
        cwd=folder,
        env=os.environ | quiet,
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "made.json").read_text(encoding="utf-8"))


def test_ids_and_labels_of_dialogues_without_white_space_at_edges_equal_the_recipes(
    recipe_rows: Any, templated: Templated
) -> None:
    # what the recipe does that we do not, and what therefore is not compared here:
    # - it does not trim contents (the next test), as the official template does;
    # - its day is "26 July 2024" whatever the day is: asked for here by date_string;
    # - it keeps rows that forge turns with control tokens (test_llama3 has ours refuse them);
    # - without a GPU Unsloth leaves tokenization to TRL, which puts a BOS before the one that the template writes (with
    #   a GPU Unsloth's own tokenization looks, and does not): the doubled one is taken off, so that the rest compares.
    expected = recipe_rows[: len(PLAIN)]
    ours = read_tokens(templated(PLAIN, llama_params(date_string=UNSLOTH_DAY)) / TRAIN).to_pylist()
    assert len(expected) == len(ours) == len(PLAIN)
    for row, theirs in zip(ours, expected, strict=True):
        doubled = 1 if theirs["input_ids"][:2] == [BOS, BOS] else 0
        assert row["input_ids"] == theirs["input_ids"][doubled:]
        assert row["labels"] == theirs["labels"][doubled:]
        assert row["input_ids"].count(BOS) == 1


def test_white_space_at_an_answers_edge_is_kept_by_the_recipe_and_trimmed_here(
    recipe_rows: Any, llama3_tokenizer: Any, templated: Templated
) -> None:
    # The model was trained on trimmed turns (the official template trims), and an untrimmed line end melts with the
    # header's into another token: the recipe then never shows the model the header that it is asked with. Its marker
    # scan finds no answer there and drops the row; with a blank at the edge it keeps row and blank.
    ours = read_tokens(templated(EDGES, llama_params(date_string=UNSLOTH_DAY)) / TRAIN).to_pylist()

    def trained(row: dict[str, list[int]]) -> str:
        return str(llama3_tokenizer.decode([label for label in row["labels"] if label != NOT_TRAINED]))

    assert [trained(row) for row in ours] == ["a blank<|eot_id|>", "a line end<|eot_id|>", "none<|eot_id|>"]
    assert [trained(row) for row in recipe_rows[len(PLAIN) :]] == [" a blank<|eot_id|>", "none<|eot_id|>"]
