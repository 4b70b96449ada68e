"""One training by one process and by two GPUs of one host: tokens/s, scaling, memory of each GPU, and whether the trajectories are equal.

    python -m tests.bench.train_pair MODEL OUT [STEPS] [PACKS] [COUNTS]
    python -m tests.bench.train_pair --lost MODEL OUT [STEPS] [PACKS]       one of two processes is killed, one process goes on

MODEL is a Llama-3.2-3B-shaped folder, OUT a folder for the logs and `pair.json`; STEPS 24; PACKS of 2,048 tokens in a step, 16: two
micro-batches of 8 for one process, one each for two; COUNTS of processes, `1,2,1`: the first one warms the disk up. It is the
train stage itself, packed, nothing recomputed; figures are over the steps after the first four. What else a host with torch 2.11 needs
says `tests.bench.train`. About 90 s a count on a cold disk.
"""

import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from stages.core.execution import NOTES
from stages.core.files import read_json, sha256_file, write_json
from tests.bench.apart import rows_or_complaint, say_row, start
from tests.bench.train_data import text_ids
from tests.bench.train_losses import judge
from tests.bench.train_stage import WARM_UP, make_base, make_tokens, params, runtime, watch_steps

if TYPE_CHECKING:
    import subprocess

MICRO_BATCH = 8


def main() -> None:
    """Run the counts one after the other, each in a process of its own, and print the table. Raises SystemExit where the loss did not fall."""
    model, out, *rest = sys.argv[1:]
    steps, packs, counts = (*rest, *("24", "16", "1,2,1")[len(rest) :])
    place = Path(out)
    place.mkdir(parents=True, exist_ok=True)
    runs: list[dict[str, Any]] = []
    for number, count in enumerate(counts.split(",")):
        said = place / f"run{number}.log"
        with tempfile.TemporaryDirectory() as folder:
            training(model, count, steps, packs, folder, said, "never").wait()
        runs += rows_or_complaint(said, f"{count} processes")
    write_json(place / "pair.json", {"runs": runs})
    print(table(runs))  # noqa: T201 - what it is for
    judge([{"row": f"run {number}", "losses": run["loss"]} for number, run in enumerate(runs)])


def training(
    model: str, count: str, steps: str, packs: str, folder: str, log: Path, save: str
) -> "subprocess.Popen[bytes]":
    """One training in a process of its own, in `folder`."""
    return start("train_pair", ["--one", model, count, steps, packs, folder, save], log)


def lost(model: str, out: str, steps: str = "24", packs: str = "16") -> None:
    """Kill the second of two processes after a checkpoint, note how the training ends, and go on with one."""
    place = Path(out)
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        first = training(model, "2", steps, packs, folder, place / "lost.log", "half-way")
        while first.poll() is None and not list(Path(folder).glob(".retune/checkpoints/*/step-*")):
            time.sleep(0.2)
        children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
        (second,) = (
            child
            for child in map(int, children)
            if b"stages.training.worker" in Path(f"/proc/{child}/cmdline").read_bytes()
        )
        os.kill(second, signal.SIGKILL)
        killed = time.monotonic()
        status = first.wait()
        took, saved = time.monotonic() - killed, max(Path(folder).glob(".retune/checkpoints/*/step-*")).name
        training(model, "1", steps, packs, folder, place / "resumed.log", "half-way").wait()
    found = rows_or_complaint(place / "resumed.log", "going on with one process")
    said = [line for name in ("lost", "resumed") for line in (place / f"{name}.log").read_text().splitlines()]
    result = {
        "status": status,
        "ended_after_s": round(took, 1),
        "checkpoint": saved,
        "resumed": [line for line in said if "resumed after" in line],
        "told": [line[:300] for line in said if "was ended by" in line],
        "loss": found[-1]["loss"] if found else None,
    }
    write_json(place / "lost.json", result)
    print(json.dumps(result))  # noqa: T201 - what it is for


def one(model: str, count: str, steps: str, packs: str, folder: str, save: str) -> None:
    """One training in `folder`; prints `ROW {json}`. In a folder where one was interrupted it goes on."""
    source, started = Path(model).resolve(), time.perf_counter()
    os.chdir(folder)
    logging.basicConfig(level=logging.INFO, format="train: %(message)s")
    if not Path("base").exists():
        make_tokens(source, text_ids(int(read_json(source / "config.json")["vocab_size"])), int(steps) * int(packs) * 6)
        make_base(source)
    how = {
        "processes": int(count),
        "micro_batch": MICRO_BATCH,
        "save_steps": None if save == "never" else max(1, int(steps) // 2),
    }
    say_row(train_here(int(steps), {"tokens_per_step": int(packs) * 2048}, how, started))


def train_here(steps: int, changed: Mapping[str, Any], how: Mapping[str, Any], started: float) -> dict[str, Any]:
    """Train packed on `base` and `tokens` of this folder, and what came of it.

    Args:
        steps: optimizer steps.
        changed: of `params`.
        how: of `runtime`.
        started: when the process began, by `time.perf_counter`.
    """
    from stages.train import train

    marks: list[tuple[float, int]] = []
    watch_steps(marks)
    Path("adapter").mkdir(exist_ok=True)
    train(
        Path("base"),
        Path("tokens"),
        Path("first"),
        Path("adapter"),
        params("packed", steps).model_copy(update=changed),
        runtime("packed").model_copy(update=how),
    )()
    record = NOTES.figures
    lines = [json.loads(line) for line in Path("adapter/steps.jsonl").read_text().splitlines()]
    (start, before), (end, after) = marks[WARM_UP - 1], marks[-1]
    return {
        "processes": record["processes"],
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


def trained() -> dict[str, Any]:
    """What the ledger says: rows that were reached, the most often that one was, and a hash of it all."""
    times = [len(steps) for steps in pq.read_table("adapter/ledger.parquet")["steps"].to_pylist()]
    return {"rows": sum(map(bool, times)), "most": max(times), "sha256": sha256_file(Path("adapter/ledger.parquet"))}


def table(runs: list[dict[str, Any]]) -> str:
    """The figures as Markdown; scaling is against as many times the best of the runs with one process."""
    alone = max((run["tokens_s"] for run in runs if run["processes"] == 1), default=None)
    first = next((run for run in runs if run["processes"] == 1), None)
    text = [
        "| processes | tokens/s | scaling | step ms | peak MiB of each | first step s | loss differs | gradient norm differs | rows trained | ledger |",
        "|---" * 10 + "|",
    ]
    for run in runs:
        scaling = "" if alone is None else f"{run['tokens_s'] / alone / run['processes']:.1%}"
        apart = ["", ""] if first is None else [f"{differs(first[key], run[key]):.1e}" for key in ("loss", "grad_norm")]
        figures = (run["processes"], f"{run['tokens_s']:,}", scaling, run["step_ms"], run["peak_gpu_mib"])
        text.append(
            "| "
            + " | ".join(
                map(str, (*figures, run["first_step_s"], *apart, run["trained"]["rows"], run["trained"]["sha256"][:8]))
            )
            + " |"
        )
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
    elif sys.argv[1] == "--lost":
        lost(*sys.argv[2:])
    else:
        main()
