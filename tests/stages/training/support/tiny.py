"""A tiny random Llama with a tokenizer and tokens as the earlier stages write them, and params to train on it."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.contracts.tokens import SCHEMA
from tests.arrow_files import write_arrow

CONTROL = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|finetune_right_pad_id|>"]
ADDED = ["<|im_end|>", "<|im_start|>"]
HIDDEN, LAYERS, VOCABULARY = 64, 2, 384
PLACES = ["attic", "cellar", "garden", "kitchen"]
THINGS = ["lamp", "rope", "drum", "coin", "bell"]
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TRAIN: dict[str, Any] = {
    "seed": 3407,
    "load_in_4bit": True,
    "dtype": "float32",
    "lora": {
        "r": 8,
        "alpha": 16,
        "dropout": 0.0,
        "bias": "none",
        "target_modules": TARGETS,
        "use_rslora": True,
        "use_dora": False,
        "modules_to_save": [],
    },
    "init_adapter": "none",
    "layout": "padded",
    "conversations_per_step": 8,
    "tokens_per_step": None,
    "pack_length": None,
    "steps": 16,
    "epochs": None,
    "learning_rate": 0.01,
    "warmup_steps": 2,
    "schedule": "linear",
    "optimizer": "adamw_8bit",
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "neftune_noise_alpha": None,
    "logging_steps": 4,
    "eval_steps": 8,
    "eval_rows": 6,
    "early_stopping": None,
    "keep": "last",
}
RUNTIME: dict[str, Any] = {
    "device": "cpu",
    "workers": None,
    "processes": None,
    "sharding": "none",
    "micro_batch": 2,
    "memory_limit_gb": None,
    "save_steps": None,
    "report_to": "none",
    "gradient_checkpointing": "off",
    "evaluation_batch": 4,
    "log_level": "info",
}


def make_world(root: Path) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    make_tokenizer(root / "tokens" / "tokenizer", [])
    make_model(root / "base", tied=False)
    make_model(root / "tied", tied=True)
    make_tokens(root / "tokens", [])


def make_tokenizer(folder: Path, added: list[str]) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=CONTROL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [
        f"where is the {thing}? the {thing} is in the {place}. system user assistant"
        for thing in THINGS
        for place in PLACES
    ] * 3
    tokenizer.train_from_iterator(texts, trainer)
    # padded to the embedding's size with words nobody says, as real vocabularies are
    tokenizer.add_tokens([f"<|reserved_{number}|>" for number in range(VOCABULARY - tokenizer.get_vocab_size())])
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in added])
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": CONTROL[0], "eos_token": added[0] if added else CONTROL[1], "pad_token": CONTROL[4]}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **names}))
    (folder / "chat_template.jinja").write_text("{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}")


def make_model(folder: Path, *, tied: bool) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=128,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.1,
        dtype="bfloat16",
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def make_tokens(folder: Path, added: list[str]) -> None:
    """train.arrow, heldout.arrow and summary.json; with added tokens, each answer ends in the first of them."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    end = tokenizer.token_to_id(added[0] if added else "<|eot_id|>")
    for name, count, shift in (("train", 24, 0), ("heldout", 10, 1)):
        rows = [dialogue(tokenizer, number * 2 + shift, end) for number in range(count)]
        columns = {"row_id": [f"{shift}{number:031x}" for number in range(count)], "input_ids": [], "labels": []}
        for ids, labels in rows:
            columns["input_ids"].append(ids)
            columns["labels"].append(labels)
        write_arrow(folder / f"{name}.arrow", pa.table(columns, schema=SCHEMA))
    summary = {
        "control_tokens": {"as_text": [], "added": {name: tokenizer.token_to_id(name) for name in added}},
        "end_of_turn": {"text": tokenizer.id_to_token(end), "ids": [end], "special": True, "inner": ""},
        "answer": {"gap": "", "opens": "", "closes": "", "ends": ""},
        "vocabulary_size": tokenizer.get_vocab_size(),
    }
    (folder / "summary.json").write_text(json.dumps(summary))


def dialogue(tokenizer: "object", number: int, end: int) -> tuple[list[int], list[int]]:
    """One to three questions, each with its answer; what `chat.py` makes of them, in small."""
    ids, labels = [0], [-100]
    for turn in range(1 + number % 3):
        thing, place = THINGS[(number + turn) % 5], PLACES[(number * 3 + turn) % 4]
        question = [
            2,
            *tokenizer.encode("user").ids,
            3,
            *tokenizer.encode(f"{thing} {place} where is the {thing}?").ids,
            1,
        ]
        question += [2, *tokenizer.encode("assistant").ids, 3]
        answer = [*tokenizer.encode(f"the {thing} is in the {place}.").ids, end]
        ids += question + answer
        labels += [-100] * len(question) + answer
    return ids, labels
