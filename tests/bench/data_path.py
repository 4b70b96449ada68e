"""Our data path against the recipe's: the same rows, the same tokens, wall time, processor time and memory.

ours    the commands of fetch_data, standardize and template as dvc.yaml has them, each a process of its own, from before its
        start to after its end; the params are the recipe's preset's, the rows a generated file in data/custom
recipe  load_dataset -> standardize_sharegpt -> template map -> tokenization in SFTTrainer -> train_on_responses_only,
        in a process whose imports and model are not counted in `recipe_s` and `ratio` (tests/bench/recipe.py); ours are.
        `ratio_from_start` counts them on both sides, `ratio_cpu` compares processor seconds, without them

Afterwards every row is compared, ids and labels. The last line of the output is one JSON object:
ours_s, recipe_s, ratio, rows, tokens, equal_rows, differences, and the figures of each step.

run     python -m tests.bench.data_path                 100,000 rows, as FineTome has, both, and the comparison: minutes on two cores
        python -m tests.bench.data_path --rows 20000
        python -m tests.bench.data_path --scaling       and ours with ten times the rows
        python -m tests.bench.data_path --million       ours alone with 1,000,000 rows in shards (13 GB of disk)
        python -m tests.bench.data_path --only ours --repeat 3
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from stages.contracts.messages import FATES
from tests.bench.compare import compare
from tests.bench.measure import Measured, measured
from tests.bench.ours import DATA_STAGES, Project, make_project
from tests.bench.recipe import STEPS
from tests.oracle import llama3
from tests.project import ROOT

MILLION = 1_000_000
FINETOME = 100_000


def main() -> None:
    """The command."""
    flags = read_flags()
    try:
        tokenizer = llama3.folder() / llama3.TOKENIZER
    except llama3.UnreachableError as error:
        sys.exit(f"the real vocabulary could not be fetched: {error}")
    work = Path(tempfile.mkdtemp(prefix="retune-bench-", dir=flags.work))
    try:
        result = million(work, tokenizer) if flags.million else bench(work, tokenizer, flags)
    finally:
        shutil.rmtree(work)
    say(json.dumps(result))


def read_flags() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=FINETOME)
    parser.add_argument("--only", choices=["ours", "recipe"], help="run one side; nothing is compared")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="run each side N times and report medians")
    parser.add_argument("--scaling", action="store_true", help="run ours with ten times the rows, too")
    parser.add_argument("--million", action="store_true", help="run ours alone, with a million rows in shards")
    parser.add_argument("--work", type=Path, help="where the scratch folder is made (default: the system's)")
    return parser.parse_args()


def bench(work: Path, tokenizer: Path, flags: argparse.Namespace) -> dict[str, Any]:
    """Both sides on one file, compared."""
    project = make_project(work / "project", "rows.parquet", tokenizer)
    rows = project.custom / "rows.parquet"
    generate(rows, flags.rows)
    floors = json.loads(measured(module("floors", rows, tokenizer / "tokenizer.json"), ROOT, os.environ).output)
    say(f"{flags.rows} rows, {floors['mb']} MB of text, {rows.stat().st_size / 1e6:.1f} MB of Parquet")
    say(f"floors: reading {floors['read_s']} s; bare tokenization of the texts by")
    for name in ("reference", "fast"):
        say(f"  {name:9} {floors[name + '_s']} s, {floors[name + '_mb_per_s']} MB/s")
    result: dict[str, Any] = {"rows": flags.rows, "mb": floors["mb"], "floors": floors}
    if flags.only != "recipe":
        result |= ours_result(project, flags.rows, floors["mb"], flags.repeat)
    if flags.only != "ours":
        result |= recipe_result(work, rows, tokenizer, flags.repeat)
    if not flags.only:
        found = compare(project.folder / "data", work / "recipe.arrow", flags.rows)
        result |= ratios(result) | {"equal_rows": found["equal"]}
        result |= {"differences": found["differences"], "doubled_bos_rows": found["doubled_bos"]}
        say(
            f"ratio {result['ratio']} (from the start of all processes {result['ratio_from_start']}, of processor time "
            f"{result['ratio_cpu']}); equal {found['equal']} of {found['compared']} rows; differences {found['differences']}"
        )
    if flags.scaling:
        result["scaling"] = [rate(flags.rows, result["ours_s"])] if "ours_s" in result else []
        result["scaling"].append(scaled(work, tokenizer, 10 * flags.rows))
    return result


def ratios(result: dict[str, Any]) -> dict[str, float]:
    """How many times as long the recipe takes."""
    ours_cpu = sum(row["cpu_s"] for row in result["ours"].values())
    return {
        "ratio": round(result["recipe_s"] / result["ours_s"], 2),
        "ratio_from_start": round((result["recipe_s"] + result["recipe_start_s"]) / result["ours_s"], 2),
        "ratio_cpu": round(sum(result["recipe"]["cpu_s"].values()) / ours_cpu, 2),
    }


def million(work: Path, tokenizer: Path) -> dict[str, Any]:
    """Ours alone, from shards."""
    return {"rows": MILLION} | sharded(work, tokenizer, MILLION)


def scaled(work: Path, tokenizer: Path, rows: int) -> dict[str, Any]:
    """Rows a second with so many rows."""
    return rate(rows, sharded(work, tokenizer, rows)["ours_s"])


def sharded(work: Path, tokenizer: Path, rows: int) -> dict[str, Any]:
    """Ours with `rows` rows in a folder of shards."""
    project = make_project(work / f"project-{rows}", "rows", tokenizer)
    generate(project.custom / "rows", rows, shards=True)
    size = sum(path.stat().st_size for path in (project.custom / "rows").iterdir()) / 1e6
    say(f"{rows} rows in shards, {size:.0f} MB of Parquet")
    try:
        return ours_result(project, rows, None, 1)
    finally:
        shutil.rmtree(project.folder)


def rate(rows: int, seconds: float) -> dict[str, Any]:
    """Rows a second, said and as figures."""
    say(f"{rows} rows: {rows / seconds:.0f} rows/s")
    return {"rows": rows, "ours_s": seconds, "rows_per_s": round(rows / seconds)}


# --- the two sides --------------------------------------------------------------------------------------------------


def ours_result(project: Project, rows: int, megabytes: float | None, repeat: int) -> dict[str, Any]:
    """Run our stages; medians of each."""
    runs = [project.run() for _ in range(repeat)]
    table = {stage: figures([run[stage] for run in runs]) for stage in DATA_STAGES}
    seconds = round(statistics.median(sum(run[stage].wall for stage in DATA_STAGES) for run in runs), 2)
    say("ours           wall s   cpu s   peak MiB   all together MiB   workers MiB")
    for stage, row in table.items():
        say(
            f"  {stage:11} {row['wall_s']:7.2f} {row['cpu_s']:7.2f} {row['peak_mib']:10} {row['together_mib']:18}   {row['workers_mib']}"
        )
    scan = module("flags_scan", project.folder / "data/messages/messages.parquet")
    flags = json.loads(measured(scan, ROOT, os.environ).output.splitlines()[-1])
    say(f"    of it the look for flags {flags['cpu_s']:7.2f} s of processor time; {flags['flagged']} rows flagged")
    speed = f", {megabytes / seconds:.1f} MB/s" if megabytes else ""
    say(f"  all         {seconds:7.2f} s for {rows} rows: {rows / seconds:.0f} rows/s{speed}")
    summary = json.loads((project.folder / "data/tokens/summary.json").read_text(encoding="utf-8"))
    messages = json.loads((project.folder / "data/messages/summary.json").read_text(encoding="utf-8"))
    result = {
        "ours_s": seconds,
        "ours_runs_s": [round(sum(run[stage].wall for stage in DATA_STAGES), 2) for run in runs],
        "ours": table,
        "flags_scan": flags,
        "tokens": sum(split["tokens"] for split in summary["splits"].values()),
        "ours_rows": {key: messages[key] for key in ("raw", *FATES, "rules", "flags")},
        "template_rejected": summary["rejected"],
    }
    return result | ({"mb_per_s": round(megabytes / seconds, 1)} if megabytes else {})


def figures(runs: list[Measured]) -> dict[str, Any]:
    """Medians of a stage's runs; memory: the most of any run."""
    return {
        "wall_s": round(statistics.median(run.wall for run in runs), 2),
        "cpu_s": round(statistics.median(run.cpu for run in runs), 2),
        "peak_mib": max(run.peak_mib for run in runs),
        "together_mib": max(run.together_mib for run in runs),
        "workers_mib": max((run.workers_mib for run in runs), key=lambda peaks: peaks[:1])[:8],
    }


def recipe_result(work: Path, rows: Path, tokenizer: Path, repeat: int) -> dict[str, Any]:
    """Run the recipe; medians of each step."""
    runs, peaks = [], []
    for number in range(repeat):
        scratch = work / f"recipe-{number}"
        scratch.mkdir()
        done = measured(
            module("recipe", rows, tokenizer, scratch, work / "recipe.arrow"),
            scratch,
            os.environ | {"PYTHONPATH": str(ROOT)},
        )
        runs.append(json.loads(done.output.splitlines()[-1]))
        peaks.append(done)
        shutil.rmtree(scratch)
    wall = {step: round(statistics.median(run["wall"][step] for run in runs), 2) for step in STEPS}
    cpu = {step: round(statistics.median(run["cpu"][step] for run in runs), 2) for step in STEPS}
    seconds = round(statistics.median(sum(run["wall"][step] for step in STEPS) for run in runs), 2)
    say("recipe         wall s   cpu s")
    for step in STEPS:
        say(f"  {step:11} {wall[step]:7.2f} {cpu[step]:7.2f}")
    start = round(statistics.median(run["wall"]["imports"] + run["wall"]["model"] for run in runs), 2)
    say(f"  all         {seconds:7.2f} s (its imports and model, {start:.1f} s, not counted)")
    return {
        "recipe_s": seconds,
        "recipe_start_s": start,
        "recipe": {"wall_s": wall, "cpu_s": cpu, "peak_mib": max(run.peak_mib for run in peaks)},
        "recipe_tokens": runs[0]["tokens"],
        "recipe_rows": runs[0]["kept"],
    }


def generate(out: Path, rows: int, *, shards: bool = False) -> None:
    """Write the rows, in a process of its own: the text that they are made of is large."""
    command = module("make_sharegpt", out, "--rows", rows, *(["--shards"] if shards else []))
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def module(name: str, *arguments: object) -> list[str]:
    """The command of a module beside this one."""
    return [sys.executable, "-m", f"tests.bench.{name}", *map(str, arguments)]


def say(line: str) -> None:
    """A line, at once."""
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
