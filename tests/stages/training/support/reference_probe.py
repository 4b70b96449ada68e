"""The same training in plain transformers, peft and bitsandbytes: no Unsloth, no TRL, no trainer, none of our batches.

    python reference_probe.py BASE TOKENS LEDGER INITIAL OUT     (the rows of each step are the ledger's, one forward pass a row)

Not a test: it needs a process without Unsloth's patches.
"""

import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from stages.arrow.tables import read_parquet
from stages.contracts.tokens import TRAIN as TRAIN_FILE
from stages.contracts.tokens import read_tokens
from stages.models.base_model import keep_bits
from tests.stages.training.support.tiny import TRAIN


def main(base: Path, tokens: Path, ledger: Path, initial: Path, out: Path) -> None:
    quantized = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, quantization_config=quantized)
    keep_bits(plain)
    lora = TRAIN["lora"]
    model = get_peft_model(
        plain,
        LoraConfig(
            r=lora["r"],
            lora_alpha=lora["alpha"],
            target_modules=lora["target_modules"],
            use_rslora=lora["use_rslora"],
            task_type="CAUSAL_LM",
        ),
    )
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    first = load_file(initial)
    assert first.keys() == trained.keys()
    with torch.no_grad():
        for name, value in trained.items():
            value.copy_(first[name])

    steps, warmup = TRAIN["steps"], TRAIN["warmup_steps"]
    optimizer = torch.optim.AdamW(trained.values(), lr=TRAIN["learning_rate"], weight_decay=TRAIN["weight_decay"])
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: step / warmup if step < warmup else (steps - step) / (steps - warmup)
    )
    table, of_rows = read_tokens(tokens / TRAIN_FILE), read_parquet(ledger)["steps"].to_pylist()
    model.train()
    lines = []
    for step in range(1, steps + 1):
        rows = [row for row, in_steps in enumerate(of_rows) for number in in_steps if number == step]
        count = sum(label != -100 for row in rows for label in table["labels"][row].as_py()[1:])
        total = 0.0
        for row in rows:
            ids = torch.tensor([table["input_ids"][row].as_py()])
            labels = torch.tensor(table["labels"][row].as_py())
            logits = model(input_ids=ids).logits[0, :-1]
            loss = torch.nn.functional.cross_entropy(logits, labels[1:], ignore_index=-100, reduction="sum") / count
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(trained.values(), TRAIN["max_grad_norm"])
        lines.append(
            {"step": step, "loss": total, "grad_norm": norm.item(), "learning_rate": schedule.get_last_lr()[0]}
        )
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    out.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
