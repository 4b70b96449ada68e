"""16-bit LoRA on an 8B shape whose base is spread over GPUs, against one GPU that holds it whole: tokens/s, memory, whether the curves are equal.

    python -m tests.bench.train_sharded TOKENIZER OUT [STEPS] [PACKS] [RUNS]

TOKENIZER is a folder with tokenizer files, OUT one for the logs and `sharded.json`; STEPS 12; PACKS of 2,048 tokens in a step, 8. RUNS is
a list of PROCESSES:SHARDING:LIMIT, LIMIT in GiB for each GPU or `free`; by default `1:none:free` (what the others are compared with),
`2:fsdp:free`, `2:fsdp:22` and `2:fsdp:13.5` (cards of 24 and 16 GB) and `1:none:13.5`, which has to run out of memory. Micro-batch and what is
computed again are those of the plan (`auto`). The base has random weights and takes 15 GiB of disk in TMPDIR, and as much of the host's
memory for each process while it loads. What else a host with torch 2.11 needs says `tests.bench.train`.
"""

import json
import logging
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from stages.errors import StageError
from stages.files import read_json, write_json
from tests.bench.apart import rows_or_complaint, say_row, start
from tests.bench.train_pair import differs, trained
from tests.bench.train_stage import WARM_UP, make_base, make_tokens, params, runtime, watch_steps

RUNS = "1:none:free,2:fsdp:free,2:fsdp:22,2:fsdp:13.5,1:none:13.5"
VOCABULARY = 128000
"""Ids below it are text."""
COLUMNS = (
    "processes:sharding:limit", "tokens/s", "step ms", "micro-batch, layers kept", "peak MiB of each", "estimated", "first step s", "loss differs",
    "gradient norm differs", "ledger",
)  # fmt: skip


def main() -> None:
    """Make the base, run one after the other, each in a process of its own, and print the table."""
    tokenizer, out, *rest = sys.argv[1:]
    steps, packs, runs = (*rest, *("12", "8", RUNS)[len(rest) :])
    place = Path(out)
    place.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        made = start("train_sharded", ["--make", tokenizer, f"{folder}/model"], place / "make.log").wait()
        if made:
            sys.exit((place / "make.log").read_text())
        for number, run in enumerate(runs.split(",")):
            log = place / f"sharded{number}.log"
            work = Path(folder) / f"run{number}"
            work.mkdir()
            start("train_sharded", ["--one", f"{folder}/model", run, steps, packs, str(work)], log).wait()
            shutil.rmtree(work)
            found += rows_or_complaint(log, run)
            write_json(place / "sharded.json", {"runs": found})
    print(table(found))  # noqa: T201 - what it is for


def make(tokenizer: str, folder: str) -> None:
    """Write a Llama-3-8B-shaped model with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=int(os.environ.get("RETUNE_BENCH_LAYERS", "32")),
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        rope_theta=500000.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
    )
    torch.manual_seed(1)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder, max_shard_size="4GB")
    for file in Path(tokenizer).glob("*token*"):
        shutil.copyfile(file, Path(folder) / file.name)


def one(model: str, run: str, steps: str, packs: str, folder: str) -> None:
    """One training in `folder`; prints `ROW {json}`."""
    count, sharding, limit = run.split(":")
    source, started = Path(model).resolve(), time.perf_counter()
    os.chdir(folder)
    logging.basicConfig(level=logging.INFO, format="train: %(message)s")
    tokens, base = Path("tokens"), Path("base")
    if not base.exists():  # it is there where a training that ran out of memory has begun again
        make_tokens(source, VOCABULARY, int(steps) * int(packs) * 6)
        make_base(source)
    from stages import train as stage

    marks: list[tuple[float, int]] = []
    watch_steps(stage, marks)
    Path("adapter").mkdir(exist_ok=True)
    changed = {"load_in_4bit": False, "tokens_per_step": int(packs) * 2048, "logging_steps": 1}
    how = {
        "processes": int(count),
        "sharding": sharding,
        "micro_batch": "auto",
        "gradient_checkpointing": "auto",
        "memory_limit_gb": None if limit == "free" else float(limit),
    }
    row: dict[str, Any] = {"run": run, "processes": int(count), "said": ""}
    try:
        stage.train(
            base,
            tokens,
            Path("first"),
            Path("adapter"),
            params(stage, "packed", int(steps)).model_copy(update=changed),
            runtime("packed").model_copy(update=how),
        )()
    except StageError as error:
        say_row({**row, "said": str(error)})
        return
    record = read_json(Path(".retune/execution/train.json"))
    lines = [json.loads(line) for line in Path("adapter/steps.jsonl").read_text().splitlines()]
    (start, before), (end, after) = marks[WARM_UP - 1], marks[-1]
    row |= {
        "tokens_s": round((after - before) / (end - start)),
        "step_ms": round((end - start) / (len(marks) - WARM_UP) * 1000, 1),
        "first_step_s": round(marks[0][0] - started, 1),
        "peak_gpu_mib": record["peak_gpu_mib"],
        "plan": record["plan"],
        "device": record["device"],
        "loss": [line["loss"] for line in lines],
        "grad_norm": [line["grad_norm"] for line in lines],
        "trained": trained(),
    }
    say_row(row)


def table(runs: list[dict[str, Any]]) -> str:
    """The figures as Markdown; what differs is against the first run."""
    text = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    first = next((run for run in runs if not run["said"]), None)
    for run in runs:
        if run["said"] or first is None:
            text.append(f"| {run['run']} | {run['said'][:200]} |" + " |" * (len(COLUMNS) - 2))
            continue
        plan = run["plan"]
        how = f"{plan['micro_batch']}, {plan['kept_layers']} of {plan['layers']}"
        apart = [f"{differs(first[key], run[key]):.1e}" for key in ("loss", "grad_norm")]
        ledger = run["trained"]["sha256"][:8]
        figures = (run["run"], f"{run['tokens_s']:,}", run["step_ms"], how, run["peak_gpu_mib"])
        cells = (*figures, plan["estimated_allocated_mib"], run["first_step_s"], *apart, ledger)
        text.append("| " + " | ".join(map(str, cells)) + " |")
    if first is not None:
        text.append(f"\n{first['device']}; loss {first['loss'][0]:.4f} to {first['loss'][-1]:.4f}")
    return "\n".join(text)


if __name__ == "__main__":
    if sys.argv[1] == "--make":
        make(*sys.argv[2:])
    elif sys.argv[1] == "--one":
        one(*sys.argv[2:])
    else:
        main()
