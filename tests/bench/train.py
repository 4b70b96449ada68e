"""The training table of the GPU: each configuration of `train_data.ROWS`, with real tokens/s, memory, start-up and share of the matrix rate.

    python -m tests.bench.train MODEL OUT [NAME ...]     NAME+profile: and a profile of a step, in the process's log

MODEL is a Llama-3.2-3B-shaped folder, OUT a folder for `rows.jsonl` (one line a row, all figures) and the processes' logs. Rows of one
load share a process, the recipe and plain transformers come last, so that what they leave in memory is not counted with ours. On a host
with torch 2.11: RETUNE_BENCH_VARLEN=1 (see `train_models.old_torch_attention`). Ratios hold within one run on one host.
The exit status is 1 where a row failed, did not train, or not as the recipe does (`train_losses`); the table is printed all the same.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.bench.apart import rows_of, start
from tests.bench.train_data import ROWS
from tests.bench.train_losses import furthest, judge

SECONDS = 600
"""After which a process is given up."""
PROCESSES: tuple[tuple[str, ...], ...] = (
    ("packed-6gb", "packed-6gb-3k", "packed-8gb", "same-8gb", "same", "same-8bit", "packed", "packed-8k", "long", "resident", "16bit",
     "recipe"),
    ("stage-packed",),
    ("stage-flattened",),
    ("8b-16bit", "8b-nf4"),
    ("hf",),
)  # fmt: skip
"""Names of rows; `stage-LAYOUT` is the train stage itself (`train_stage`)."""
PROFILE = "+profile"
COLUMNS = ("row", "tokens/s", "x recipe", "share", "peak GiB", "reserved", "cap", "step ms", "first loss", "last", "off recipe",
           "import s", "load s", "first step s")  # fmt: skip
ALIKE = ("recipe", "hf", *(name for name, row in ROWS.items() if row.layout == "flattened"))
"""Rows that do the recipe's mathematics on the same conversations."""


def main() -> None:
    """Run the processes one after the other and print the table. Raises SystemExit with what is wrong with its rows."""
    folder, out, *wanted = sys.argv[1:]
    place = Path(out)
    place.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = []
    lost: list[str] = []
    for number, names in enumerate(PROCESSES):
        asked = dict(zip(plain(wanted), wanted, strict=True))
        chosen = [asked.get(name, name) for name in names if not wanted or name in asked]
        if not chosen:
            continue
        log = place / f"process{number}.log"
        if names[0].startswith("stage-"):
            process = start("train_stage", [folder, names[0].removeprefix("stage-")], log)
        else:
            process = start("train_rows", [folder, *chosen], log)
        try:
            process.wait(float(os.environ.get("RETUNE_BENCH_SECONDS", SECONDS)))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        found = rows_of(log)
        lines += found
        there = {line["row"] for line in found}
        lost += [f"{name} has no figures, see {log}" for name in names if name in plain(chosen) and name not in there]
        with (place / "rows.jsonl").open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in found)
    print(table(lines))  # noqa: T201 - what it is for
    judge(lines, ALIKE, lost)


def plain(names: list[str]) -> list[str]:
    """The rows' names, without what else is wanted of them."""
    return [name.removesuffix(PROFILE) for name in names]


def table(lines: list[dict[str, Any]]) -> str:
    """The figures as Markdown; a row that failed has its error."""
    recipe = next((line["tokens_s"] for line in lines if line["row"] == "recipe" and "tokens_s" in line), None)
    curve = next((line["losses"] for line in lines if line["row"] == "recipe" and "losses" in line), None)
    text = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for line in lines:
        if "error" in line:
            text.append(f"| {line['row']} | {line['error']} |")
            continue
        ratio = "" if recipe is None or line["row"].startswith("8b") else f"{line['tokens_s'] / recipe:.1f}"
        measured = [line.get(key) for key in ("peak_gib", "reserved_gib", "cap_gib", "step_ms")]
        off = furthest(line["losses"], curve)[1] if curve and line["row"] in ALIKE else None
        losses = [f"{line['losses'][0]:.3f}", f"{line['losses'][-1]:.3f}", None if off is None else f"{off:.3f}"]
        began = [line.get(key) for key in ("import_s", "load_s", "first_step_s")]
        figures = ("" if found is None else str(found) for found in (*measured, *losses, *began))
        text.append(
            "| " + " | ".join((line["row"], f"{line['tokens_s']:,}", ratio, f"{line['share']:.1%}", *figures)) + " |"
        )
    if lines:
        text.append(
            f"\n{lines[0]['gpu']}, torch {lines[0]['torch']}, bf16 matrix rate {sorted({line['rate_tflop_s'] for line in lines})} TFLOP/s"
        )
    return "\n".join(text)


if __name__ == "__main__":
    main()
