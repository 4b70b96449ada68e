"""One training by one process and by two GPUs of one host: tokens/s, scaling, memory of each GPU, and whether the trajectories are equal.

    python -m tests.bench.train_pair MODEL OUT [STEPS] [PACKS] [COUNTS]

MODEL is a Llama-3.2-3B-shaped folder, OUT a folder for the logs and `pair.json`; STEPS 24; PACKS of 2,048 tokens in a step, 16: two
micro-batches of 8 for one process, one each for two; COUNTS of processes, `1,2,1`: the first one warms the disk up. It is the
train stage itself, packed, nothing recomputed; figures are over the steps after the first four. What else a host with torch 2.11 needs
says `tests.bench.train`. About 90 s a count on a cold disk.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from stages.files import read_json, write_json
from tests.bench.train_stage import WARM_UP, make_base, make_tokens, params, runtime, watch_steps

MICRO_BATCH = 8
ROOT = Path(__file__).parents[2]


def main() -> None:
    """Run the counts one after the other, each in a process of its own, and print the table."""
    model, out, *rest = sys.argv[1:]
    steps, packs, counts = (*rest, *("24", "16", "1,2,1")[len(rest) :])
    place = Path(out)
    place.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    runs: list[dict[str, Any]] = []
    for number, count in enumerate(counts.split(",")):
        command = [sys.executable, "-m", "tests.bench.train_pair", "--one", model, count, steps, packs]
        with (place / f"run{number}.log").open("w") as said:
            subprocess.run(command, stdout=said, stderr=subprocess.STDOUT, check=False, env=environment)
        lines = (place / f"run{number}.log").read_text().splitlines()
        found = [json.loads(line.removeprefix("ROW ")) for line in lines if line.startswith("ROW ")]
        if not found:
            print(f"{count} processes failed:", *lines[-15:], sep="\n")  # noqa: T201 - what it is for
            continue
        runs += found
    write_json(place / "pair.json", {"runs": runs})
    print(table(runs))  # noqa: T201 - what it is for


def one(model: str, count: str, steps: str, packs: str) -> None:
    """One training; prints `ROW {json}`."""
    source, started = Path(model).resolve(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        tokens = make_tokens(source, 128000, int(steps) * int(packs) * 6)
        base = make_base(source)
        from stages import train as stage

        marks: list[tuple[float, int]] = []
        watch_steps(stage, marks)
        Path("adapter").mkdir()
        changed = {"tokens_per_step": int(packs) * 2048, "logging_steps": 1}
        how = {"processes": int(count), "micro_batch": MICRO_BATCH}
        stage.train(
            base,
            tokens,
            Path("first"),
            Path("adapter"),
            params(stage, "packed", int(steps)).model_copy(update=changed),
            runtime("packed").model_copy(update=how),
        )
        record = read_json(Path(".retune/execution/train.json"))
        lines = [json.loads(line) for line in Path("adapter/steps.jsonl").read_text().splitlines()]
        (start, before), (end, after) = marks[WARM_UP - 1], marks[-1]
        row = {
            "processes": record["processes"],
            "tokens_s": round((after - before) / (end - start)),
            "step_ms": round((end - start) / (len(marks) - WARM_UP) * 1000, 1),
            "first_step_s": round(marks[0][0] - started, 1),
            "peak_gpu_mib": record["peak_gpu_mib"],
            "device": record["device"],
            "loss": [line["loss"] for line in lines],
            "grad_norm": [line["grad_norm"] for line in lines],
        }
        os.chdir("/")
    print("ROW " + json.dumps(row))  # noqa: T201 - what it is for


def table(runs: list[dict[str, Any]]) -> str:
    """The figures as Markdown; scaling is against as many times the best of the runs with one process."""
    alone = max((run["tokens_s"] for run in runs if run["processes"] == 1), default=None)
    first = next((run for run in runs if run["processes"] == 1), None)
    text = [
        "| processes | tokens/s | scaling | step ms | peak MiB of each | first step s | loss differs | gradient norm differs |",
        "|---" * 8 + "|",
    ]
    for run in runs:
        scaling = "" if alone is None else f"{run['tokens_s'] / alone / run['processes']:.1%}"
        apart = ["", ""] if first is None else [f"{differs(first[key], run[key]):.1e}" for key in ("loss", "grad_norm")]
        figures = (run["processes"], f"{run['tokens_s']:,}", scaling, run["step_ms"], run["peak_gpu_mib"])
        text.append("| " + " | ".join(map(str, (*figures, run["first_step_s"], *apart))) + " |")
    if runs:
        losses = runs[0]["loss"]
        text.append(
            f"\n{runs[0]['device']}; loss {losses[0]:.4f} to {losses[-1]:.4f}; differences are the largest of any step, relative"
        )
    return "\n".join(text)


def differs(one: list[float], other: list[float]) -> float:
    """The largest relative difference of two curves."""
    return max(abs(left - right) / abs(left) for left, right in zip(one, other, strict=True))


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        one(*sys.argv[2:])
    else:
        main()
