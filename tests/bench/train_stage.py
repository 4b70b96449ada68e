"""The train stage itself, timed: `stages.train.train` over conversations like FineTome's. Prints a line `ROW {json}`.

usage: python -m tests.bench.train_stage MODEL LAYOUT [STEPS] [VOCABULARY]     LAYOUT: padded, flattened or packed
"""

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.contracts import base as base_files
from stages.contracts import tokens as token_files
from stages.core.files import write_json
from stages.core.params import Runtime
from stages.training.params import TrainParams
from tests.arrow_files import write_arrow
from tests.bench.apart import say_row
from tests.bench.train_data import Row, conversations
from tests.bench.train_models import TARGETS, old_torch_attention
from tests.bench.train_rows import FLOP_A_TOKEN, GIB, matrix_rate

WARM_UP = 4
PACKS = 8


def main() -> None:
    """Make the inputs in a folder of their own and train there."""
    model, layout, *rest = sys.argv[1:]
    steps, vocabulary = int(rest[0]) if rest else 16, int(rest[1]) if len(rest) > 1 else 128000
    started = time.perf_counter()
    source = Path(model).resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        tokens = make_tokens(source, vocabulary, steps * PACKS * 6)
        base = make_base(source)
        from stages.train import train

        marks: list[tuple[float, int]] = []
        watch_steps(marks)
        Path("adapter").mkdir()
        train(base, tokens, Path("first"), Path("adapter"), params(layout, steps), runtime(layout))()
        found = figures(f"stage-{layout}", marks, started) | {"losses": losses()}
        os.chdir("/")
    say_row(found)


def make_base(source: Path) -> Path:
    """data/base out of links to a model's files, with a source record, so that no gigabytes are hashed."""
    base = Path("base")
    base.mkdir()
    for file in source.iterdir():
        (base / file.name).symlink_to(file)
    names = [base_files.CONFIG, *(file.name for file in base.glob("*.safetensors"))]
    write_json(base / base_files.SOURCE, {"files": {f"base/{name}": "0" * 64 for name in names}})
    return base


def make_tokens(source: Path, vocabulary: int, count: int) -> Path:
    """data/tokens as the template stage writes it."""
    tokens = Path("tokens")
    (tokens / token_files.TOKENIZER).mkdir(parents=True)
    for file in source.glob("tokenizer*"):
        shutil.copyfile(file, tokens / token_files.TOKENIZER / file.name)
    rows = conversations(Row("ours"), count, vocabulary)
    for name, part in ((token_files.TRAIN, rows), (token_files.HELDOUT, rows[:8])):
        columns = {
            "row_id": [f"{number:032x}" for number in range(len(part))],
            "input_ids": [ids for ids, _ in part],
            "labels": [labels for _, labels in part],
        }
        write_arrow(tokens / name, pa.table(columns, schema=token_files.SCHEMA))
    write_json(
        tokens / token_files.SUMMARY, {"control_tokens": {"as_text": [], "added": {}}, "vocabulary_size": vocabulary}
    )
    return tokens


def params(layout: str, steps: int) -> Any:
    """The recipe's, in a layout."""
    packed = layout == "packed"
    lora = {"r": 16, "alpha": 16, "dropout": 0.0, "bias": "none", "target_modules": list(TARGETS)}
    return TrainParams.model_validate(
        {
            "seed": 3407,
            "load_in_4bit": True,
            "dtype": "auto",
            "lora": {**lora, "use_rslora": False, "use_dora": False, "modules_to_save": []},
            "init_adapter": "none",
            "layout": layout,
            "conversations_per_step": None if packed else 8,
            "tokens_per_step": PACKS * 2048 if packed else None,
            "pack_length": 2048 if packed else None,
            "steps": steps,
            "epochs": None,
            "learning_rate": 2e-4,
            "warmup_steps": 0,
            "schedule": "constant",
            "optimizer": "adamw_torch_fused",
            "weight_decay": 0.01,
            "max_grad_norm": 1.0,
            "neftune_noise_alpha": None,
            "logging_steps": 1,
            "eval_steps": None,
            "eval_rows": 1,
            "early_stopping": None,
            "keep": "last",
        }
    )


def runtime(layout: str) -> Runtime:
    """A whole step in one micro-batch, nothing recomputed."""
    return Runtime.model_validate(
        {
            "device": "auto",
            "workers": None,
            "processes": None,
            "sharding": "none",
            "micro_batch": 2 if layout == "padded" else 8,
            "memory_limit_gb": None,
            "save_steps": None,
            "report_to": "none",
            "gradient_checkpointing": "off",
            "evaluation_batch": 4,
            "log_level": "info",
        }
    )


def losses() -> list[float]:
    """Of each step of the training that has ended in this folder."""
    return [round(json.loads(line)["loss"], 4) for line in Path("adapter/steps.jsonl").read_text().splitlines()]


def watch_steps(marks: list[tuple[float, int]]) -> None:
    """Note (time, tokens trained on) at the end of each step."""
    from stages.training import job

    load, make = job.load_model, job.make_trainer

    def load_model(*rest: Any, **named: Any) -> Any:
        model, tokenizer = load(*rest, **named)
        if os.environ.get("RETUNE_BENCH_VARLEN") == "1":
            old_torch_attention()
        return model, tokenizer

    def make_trainer(model: Any, tokenizer: Any, tokens: Path, work: Any, *rest: Any) -> Any:
        from transformers import TrainerCallback

        class Marks(TrainerCallback):  # type: ignore[misc, unused-ignore]
            def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
                done = work.step_log.plan.steps[: state.global_step]
                marks.append(
                    (time.perf_counter(), sum(work.rows.lengths[row] for step in done for part in step for row in part))
                )

        trainer = make(model, tokenizer, tokens, work, *rest)
        trainer.add_callback(Marks())
        return trainer

    job.load_model, job.make_trainer = load_model, make_trainer


def figures(name: str, marks: list[tuple[float, int]], started: float) -> dict[str, Any]:
    """What the table shows of the steps after the warm-up; `first_step_s` counts from the start of the process's work."""
    import torch

    (start, before), (end, after) = marks[WARM_UP - 1], marks[-1]
    found: dict[str, Any] = {
        "row": name,
        "tokens_s": round((after - before) / (end - start)),
        "step_ms": round((end - start) / (len(marks) - WARM_UP) * 1000, 1),
        "first_step_s": round(marks[0][0] - started, 1),
        "gpu": "none",
        "torch": torch.__version__,
        "rate_tflop_s": 0,
        "share": 0.0,
    }
    if torch.cuda.is_available():
        found["peak_gib"] = round(torch.cuda.max_memory_allocated() / GIB, 2)
        found["reserved_gib"] = round(torch.cuda.max_memory_reserved() / GIB, 2)
        rate = matrix_rate()
        found |= {"gpu": torch.cuda.get_device_name(), "rate_tflop_s": round(rate)}
        found["share"] = round(found["tokens_s"] * FLOP_A_TOKEN / rate / 1e12, 3)
    return found


if __name__ == "__main__":
    main()
