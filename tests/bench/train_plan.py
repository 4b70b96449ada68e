"""What `runtime.micro_batch: auto` takes on this GPU under memory limits, and how far its estimate of the memory is from what was then measured.

    python -m tests.bench.train_plan MODEL OUT [LIMITS] [STEPS]

MODEL is a Llama-3.2-3B-shaped folder, OUT a folder for the logs and `plan.json`; LIMITS in GB, `5,7,0`: 0 for none; STEPS 10. Each is the
train stage itself, packed, eight packs of 2,048 tokens a step, in a process of its own. What else a host with torch 2.11 needs says
`tests.bench.train`. About 45 s a limit.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from stages.core.execution import NOTES
from stages.core.files import write_json
from tests.bench.apart import rows_or_complaint, say_row, start
from tests.bench.train_losses import judge
from tests.bench.train_stage import PACKS, WARM_UP, losses, make_base, make_tokens, params, runtime, watch_steps


def main() -> None:
    """Run the limits one after the other and print the table. Raises SystemExit where the loss did not fall."""
    model, out, *rest = sys.argv[1:]
    limits, steps = (*rest, *("5,7,0", "10")[len(rest) :])
    place = Path(out)
    place.mkdir(parents=True, exist_ok=True)
    runs: list[dict[str, Any]] = []
    for limit in limits.split(","):
        said = place / f"limit{limit}.log"
        start("train_plan", ["--one", model, limit, steps], said).wait()
        runs += rows_or_complaint(said, f"limit {limit}")
    write_json(place / "plan.json", {"runs": runs})
    print(table(runs))  # noqa: T201 - what it is for
    judge([{**run, "row": f"limit {run['limit_gb']}"} for run in runs])


def one(model: str, limit: str, steps: str) -> None:
    """One training; prints `ROW {json}`."""
    source = Path(model).resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        tokens, base = make_tokens(source, 128000, int(steps) * PACKS * 6), make_base(source)
        from stages.train import train

        marks: list[tuple[float, int]] = []
        watch_steps(marks)
        Path("adapter").mkdir()
        how = {"micro_batch": "auto", "memory_limit_gb": float(limit) or None, "gradient_checkpointing": "auto"}
        chosen = params("packed", int(steps))
        train(base, tokens, Path("first"), Path("adapter"), chosen, runtime("packed").model_copy(update=how))()
        import torch

        record = NOTES.figures
        (start, before), (end, after) = marks[WARM_UP - 1], marks[-1]
        row = {
            "limit_gb": float(limit) or None,
            **record["plan"],
            "allocated_mib": round(torch.cuda.max_memory_allocated() / 2**20),
            "reserved_mib": round(torch.cuda.max_memory_reserved() / 2**20),
            "tokens_s": round((after - before) / (end - start)),
            "losses": losses(),
            "device": record["device"],
        }
        os.chdir("/")
    say_row(row)


def table(runs: list[dict[str, Any]]) -> str:
    """The figures as Markdown; `off` is the estimate against the measurement."""
    text = [
        "| limit GB | micro-batch | layers kept | loss rows | tokens/s | loss | allocated MiB | off | reserved MiB | off | after out-of-memory |",
        "|---" * 11 + "|",
    ]
    for run in runs:
        off = [f"{run[f'estimated_{kind}_mib'] / run[f'{kind}_mib'] - 1:+.1%}" for kind in ("allocated", "reserved")]
        figures = (
            *(run[key] or "none" for key in ("limit_gb", "micro_batch")),
            f"{run['kept_layers']} of {run['layers']}",
            *(run["loss_rows"], f"{run['tokens_s']:,}", f"{run['losses'][0]:.3f} to {run['losses'][-1]:.3f}"),
            *(run["allocated_mib"], off[0], run["reserved_mib"], off[1]),
            run["after_out_of_memory"],
        )
        text.append("| " + " | ".join(map(str, figures)) + " |")
    return "\n".join([*text, f"\n{runs[0]['device']}"] if runs else text)


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        one(*sys.argv[2:])
    else:
        main()
