"""The pipeline as a Prefect flow: one task a stage of dvc.yaml, each Ran, Cached or Failed.

    python -m flows.pipeline     once, on a server of its own that ends with it (`make flow`)
    prefect.yaml                 on a schedule, on a real server (README, "Scheduled runs")

DVC decides what has to run and keeps what came out; Prefect says when, and shows what happened. So there is no order, edge or
path in here: dvc.yaml has them. The stages run on a snapshot of the project (`flows/snapshot.py`).
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import flows.settings  # noqa: F401 - before prefect, which reads the environment once

# isort: split
from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.process import StageOutcome
from flows.run import Say, begin_run, carry_out_run, carry_out_stage, count_states


@task(cache_policy=NO_CACHE, persist_result=False)
def run_stage(carry_out: Callable[[Say], StageOutcome]) -> State[Any]:
    """One stage, in a process group of its own: Completed as `Ran` or `Cached`, else Failed with the stage's own message."""
    outcome = carry_out(get_run_logger().info)
    if outcome.state == "Failed":
        return Failed(message=outcome.message)
    return Completed(name=outcome.state, message=outcome.message or None)


@flow(name="retune", persist_result=False)
def retune(root: str = ".") -> State[Any]:
    """Bring the project at `root` up to date. Failed if a stage failed: what reads its outputs is not run, the rest is.

    The tasks are called, not submitted: then they run in this main thread, where cancelling interrupts them (a submitted task
    leaves its child running although Prefect says Cancelled).
    """
    log = get_run_logger()
    states: dict[str, State[Any]] = {}
    try:
        with begin_run(Path(root).resolve(), log.info) as run:

            def carry_out(stage: str, upstream: tuple[str, ...]) -> tuple[str, str]:
                # a download may work the second time, a computation does not
                retries = 2 if stage.startswith("fetch_") else 0
                one = run_stage.with_options(name=stage, task_run_name=stage, retries=retries, retry_delay_seconds=5)
                before = [states[name] for name in upstream]
                states[stage] = one(partial(carry_out_stage, run, stage), wait_for=before, return_state=True)
                return states[stage].name or "", states[stage].message or ""

            wrong = carry_out_run(run, run.snapshot.dag, carry_out, log.info)
    except ValueError as error:
        return Failed(message=str(error))
    # a flow that returns data is Completed whatever became of its tasks, so it says itself how it ended
    if wrong:
        return Failed(message="\n".join(wrong))
    return Completed(message=count_states(state.name or "" for state in states.values()))


if __name__ == "__main__":
    sys.exit(0 if retune(return_state=True).is_completed() else 1)
