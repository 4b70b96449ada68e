"""The published recipe's own data path, timed step by step: what `data_path` measures ours against.

load_dataset -> standardize_sharegpt -> the chat template by map -> tokenization in SFTTrainer -> train_on_responses_only.
In a process of its own: Unsloth must come before transformers and trl and patches them. What it would do for the training
anyway (its imports, the model) is not counted; the cache of `datasets` is fresh, so nothing is left of an earlier run.

run     python -m tests.bench.recipe ROWS.parquet TOKENIZER_FOLDER SCRATCH OUT.arrow
writes  OUT.arrow: the rows that the recipe would train on: input_ids, labels, and their `source` column
prints  one line of JSON: {wall: {step: s}, cpu: {step: s}, rows, kept, tokens}
"""

import json
import os
import resource
import sys
import time

MAX_LENGTH = 2048
PROCESSES = 2
TURN = "<|start_header_id|>{}<|end_header_id|>\n\n"
STEPS = ("load", "standardize", "template", "tokenize", "mask")


class Laps:
    """Wall and CPU seconds (those of ended children too) from one lap to the next."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        self.last = (time.perf_counter(), cpu_seconds())

    def lap(self, name: str) -> None:
        wall, cpu = self.last
        self.last = (time.perf_counter(), cpu_seconds())
        self.wall[name] = round(self.last[0] - wall, 2)
        self.cpu[name] = round(self.last[1] - cpu, 2)


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in used)


def recipe(rows: str, tokenizer_folder: str, scratch: str, laps: Laps) -> tuple[object, int]:
    """The trainer's rows after the recipe's last step before training, and how many rows came in."""
    from unsloth.chat_templates import get_chat_template, standardize_sharegpt, train_on_responses_only  # isort: skip
    from datasets import load_dataset
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    laps.lap("imports")
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, pad_token="<|reserved_special_token_0|>")
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=128256,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            tie_word_embeddings=True,
        )
    )
    tokenizer = get_chat_template(tokenizer, chat_template="llama-3.1")
    laps.lap("model")
    data = load_dataset("parquet", data_files=rows, split="train", cache_dir=f"{scratch}/cache")
    laps.lap("load")
    data = standardize_sharegpt(data)
    laps.lap("standardize")
    data = data.map(
        lambda batch: {
            "text": [
                tokenizer.apply_chat_template(dialogue, tokenize=False, add_generation_prompt=False)
                for dialogue in batch["conversations"]
            ]
        },
        batched=True,
    )
    laps.lap("template")
    arguments = SFTConfig(
        output_dir=f"{scratch}/trainer",
        dataset_text_field="text",
        max_length=MAX_LENGTH,
        dataset_num_proc=PROCESSES,
        packing=False,
        report_to="none",
        max_steps=1,
    )
    trainer = SFTTrainer(
        model=model,
        train_dataset=data,
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer=tokenizer),
        args=arguments,
    )
    laps.lap("tokenize")
    trainer = train_on_responses_only(
        trainer, instruction_part=TURN.format("user"), response_part=TURN.format("assistant")
    )
    laps.lap("mask")
    return trainer.train_dataset, len(data)


def main() -> None:
    """The command."""
    rows, tokenizer, scratch, out = sys.argv[1:]
    os.environ |= {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "UNSLOTH_COMPILE_LOCATION": f"{scratch}/compiled"}
    laps = Laps()
    made, count = recipe(rows, tokenizer, scratch, laps)

    import pyarrow as pa

    table = made.with_format("arrow").select_columns(["source", "input_ids", "labels"])[:]  # type: ignore[attr-defined]
    with pa.OSFile(out, "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    tokens = len(table["input_ids"].combine_chunks().flatten())
    print(json.dumps({"wall": laps.wall, "cpu": laps.cpu, "rows": count, "kept": table.num_rows, "tokens": tokens}))  # noqa: T201


if __name__ == "__main__":
    main()
