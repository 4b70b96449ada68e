"""The pipeline as a Prefect flow: one task a stage of dvc.yaml, each Ran, Cached or Failed.

    python -m flows.pipeline     once, on a server of its own that ends with it (`make flow`)
    prefect.yaml                 on a schedule, on a real server (README, "Scheduled runs")

DVC decides what has to run and keeps what came out; Prefect says when, and shows what happened. So there is no order, edge or
path in here: dvc.yaml has them.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flows.settings  # noqa: F401 - before prefect, which reads the environment once

# isort: split
from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.dag import read_dag
from flows.process import repro


@dataclass(frozen=True)
class Line:
    """A stage's line in the table at the end."""

    stage: str
    state: str
    seconds: float
    message: str


@task(cache_policy=NO_CACHE, persist_result=False)
def run_stage(root: Path, stage: str) -> State[Any]:
    """One stage, in a process group of its own: Completed as `Ran` or `Cached`, else Failed with the stage's own message."""
    outcome = repro(root, stage, get_run_logger().info)
    if outcome.state == "Failed":
        return Failed(message=outcome.message)
    return Completed(name=outcome.state)


@flow(name="retune", persist_result=False)
def retune(root: str = ".") -> State[Any]:
    """Bring the project at `root` up to date. Failed if a stage failed: what reads its outputs is not run, the rest is.

    The tasks are called, not submitted: then they run in this main thread, where cancelling interrupts them (a submitted task
    leaves its child running although Prefect says Cancelled).
    """
    log = get_run_logger()
    folder = Path(root).resolve()
    try:
        dag = read_dag(folder)
    except ValueError as error:
        return Failed(message=str(error))
    states: dict[str, State[Any]] = {}
    table: list[Line] = []
    for stage, upstream in dag.items():
        missing = [name for name in upstream if name not in states or not states[name].is_completed()]
        if missing:
            table.append(Line(stage, "Not run", 0.0, f"waits for {', '.join(missing)}"))
            continue
        started = time.monotonic()
        # a download may work the second time, a computation does not
        retries = 2 if stage.startswith("fetch_") else 0
        one = run_stage.with_options(name=stage, task_run_name=stage, retries=retries, retry_delay_seconds=5)
        states[stage] = one(folder, stage, wait_for=[states[name] for name in upstream], return_state=True)
        message = "" if states[stage].is_completed() else states[stage].message or ""
        table.append(Line(stage, states[stage].name or "", time.monotonic() - started, message))
    log.info("\n%s", format_table(table))
    # a flow that returns data is Completed whatever became of its tasks, so it says itself how it ended
    failed = [f"{line.stage}: {line.message}" for line in table if line.state not in {"Ran", "Cached", "Not run"}]
    if failed:
        return Failed(message="\n".join(failed))
    return Completed(message=", ".join(f"{count(table, name)} {name}" for name in ("Ran", "Cached")))


def count(table: list[Line], state: str) -> int:
    """How many stages ended in `state`."""
    return sum(line.state == state for line in table)


def format_table(table: list[Line]) -> str:
    """The table in plain characters: it goes to a log as well as to a terminal. Of a message its first line."""
    width = max([len("stage"), *(len(line.stage) for line in table)])
    rows = [f"{'stage':{width}}  {'state':8}  seconds"]
    rows += [
        f"{line.stage:{width}}  {line.state:8}  {line.seconds:7.1f}  {line.message.partition(chr(10))[0]}".rstrip()
        for line in table
    ]
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(0 if retune(return_state=True).is_completed() else 1)
