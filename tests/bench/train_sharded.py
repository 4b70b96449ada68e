"""16-bit LoRA on an 8B shape whose base is spread over GPUs, against one GPU that holds it whole: tokens/s, memory, whether the curves are equal.

    python -m tests.bench.train_sharded TOKENIZER OUT [STEPS] [PACKS] [RUNS]

TOKENIZER is a folder with tokenizer files, OUT one for the logs and `sharded.json`; STEPS 12; PACKS of 2,048 tokens in a step, 8. RUNS is
a list of PROCESSES:SHARDING:LIMIT, LIMIT in GiB for each GPU or `free`; by default `1:none:free` (what the others are compared with),
`2:fsdp:free`, `2:fsdp:22` and `2:fsdp:13.5` (cards of 24 and 16 GB) and `1:none:13.5`, which has to run out of memory. Micro-batch and what is
computed again are those of the plan (`auto`). The base has random weights and takes 15 GiB of disk in TMPDIR, and as much of the host's
memory for each process while it loads. What else a host with torch 2.11 needs says `tests.bench.train`.
"""

import logging
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from stages.core.errors import StageError
from stages.core.files import write_json
from tests.bench.apart import rows_or_complaint, say_row, start
from tests.bench.train_models import shape_8b
from tests.bench.train_pair import differs, train_here
from tests.bench.train_stage import make_base, make_tokens

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
    from transformers import LlamaForCausalLM

    config = shape_8b(int(os.environ.get("RETUNE_BENCH_LAYERS", "32")))
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
    if not Path("base").exists():  # it is there where a training that ran out of memory has begun again
        make_tokens(source, VOCABULARY, int(steps) * int(packs) * 6)
        make_base(source)
    how = {
        "processes": int(count),
        "sharding": sharding,
        "micro_batch": "auto",
        "gradient_checkpointing": "auto",
        "memory_limit_gb": None if limit == "free" else float(limit),
    }
    row: dict[str, Any] = {"run": run, "processes": int(count), "said": ""}
    changed = {"load_in_4bit": False, "tokens_per_step": int(packs) * 2048}
    try:
        row |= train_here(int(steps), changed, how, started)
    except StageError as error:
        row["said"] = str(error)
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
