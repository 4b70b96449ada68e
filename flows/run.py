"""A run of the pipeline on a snapshot: stage by stage, what it makes brought home. The Prefect flow and `retune run` are two ways to look at it."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from flows.dag import downstream, with_upstream
from flows.entry_check import forget_false_entry
from flows.file_copies import remove_path
from flows.homecoming import bring_home
from flows.process import StageOutcome, repro
from flows.run_lock import hold_run_lock
from flows.snapshot import Snapshot, snapshot_folder, take_snapshot

Say = Callable[[str], None]
GOOD = ("Ran", "Cached")


@dataclass(frozen=True)
class Line:
    """A stage's line in the table at the end."""

    stage: str
    state: str
    seconds: float
    message: str


@dataclass
class PipelineRun:
    """A run under way."""

    snapshot: Snapshot
    lock: int
    left: dict[str, str] = field(default_factory=dict)
    """{stage: why its results have not come home}."""
    looked_at: set[str] = field(default_factory=set)
    """The stages that DVC was asked to bring up to date."""


@contextmanager
def begin_run(home: Path, say: Say) -> Iterator[PipelineRun]:
    """Take a snapshot of the project at `home` for a run; wait for one that is at work. What did not come home stays in the snapshot, else it goes.

    Raises ValueError, before anything has run, for a project that cannot be read.
    """
    with hold_run_lock(home, say) as lock:
        run = None
        try:
            run = PipelineRun(take_snapshot(home, say), lock)
            yield run
        finally:
            if run is None or not run.left:
                remove_path(snapshot_folder(home))


def carry_out_stage(run: PipelineRun, stage: str, say: Say) -> StageOutcome:
    """Bring one stage up to date in the snapshot and its results home.

    A stage that failed leaves what is at home as it was. One that refused (it failed, and all its outputs are there) brings them: they say why.
    """
    outcome, false = repro_truly(run, stage, say)
    if false:
        where = f"something was edited in {run.snapshot.root} while DVC noted the run down, so it was forgotten"
        return StageOutcome("Failed", f"{where}: {false}")
    files, refused = run.snapshot.stages[stage], outcome.state == "Failed"
    if files.key is None:  # a `.dvc` file: it says what lies there, and runs nothing
        return outcome
    judged = [out for out in files.outs if out not in files.persisted]
    if refused and not (judged and all((run.snapshot.root / out).exists() for out in judged)):
        return outcome
    why = next((f"{one} has not come home" for one in run.left if stage in downstream(run.snapshot.dag, {one})), "")
    why = why or bring_home(run.snapshot, stage, refused=refused)
    if not why:
        return outcome
    run.left[stage] = why
    say(f"the results of {stage} are not brought home: {why}")
    return replace(outcome, message="\n".join(filter(None, (outcome.message, f"not brought home: {why}"))))


def repro_truly(run: PipelineRun, stage: str, say: Say) -> tuple[StageOutcome, str]:
    """Bring one stage up to date in the snapshot. What DVC hands out of its cache as another run than it was is forgotten, and made again.

    Gives how it ended, and in what DVC has noted down a run that has just been made as another one; empty if it has not.
    """
    outcome = repro_changed(run, stage, say)
    false = forget_false_entry(run.snapshot.root, stage, ran=outcome.state == "Ran") if outcome.state in GOOD else ""
    if false and outcome.state == "Cached":
        say(f"DVC had noted down a run of {stage} as another one than it was, so it is made again: {false}")
        run.looked_at.add(stage)
        outcome = repro(run.snapshot.root, stage, say, (run.lock,))
        false = forget_false_entry(run.snapshot.root, stage, ran=True) if outcome.state in GOOD else ""
    return outcome, false


def repro_changed(run: PipelineRun, stage: str, say: Say) -> StageOutcome:
    """`dvc repro` of one stage; not called, which costs a second, where nothing had changed when the run began and nothing before the stage has since."""
    if stage in run.snapshot.unchanged and run.looked_at.isdisjoint(with_upstream(run.snapshot.dag, [stage])):
        say(f"Stage '{stage}' didn't change, skipping")
        return StageOutcome("Cached")
    run.looked_at.add(stage)
    return repro(run.snapshot.root, stage, say, (run.lock,))


def carry_out_run(
    run: PipelineRun, stages: Iterable[str], carry_out: Callable[[str, tuple[str, ...]], tuple[str, str]], say: Say
) -> list[str]:
    """Carry out stages in the order of the graph: what reads the outputs of one that failed is not run, the rest is. Say a table at the end.

    Args:
        run: the run.
        stages: which.
        carry_out: called with a stage and the stages that it reads from; gives (state, message).
        say: takes lines.

    Returns:
        What went wrong, a text a stage; empty if all is well, and at home.
    """
    asked, table = set(stages), list[Line]()
    states: dict[str, str] = {}
    for stage, upstream in run.snapshot.dag.items():
        if stage not in asked:
            continue
        missing = [name for name in upstream if name in asked and states.get(name) not in GOOD]
        if missing:
            table.append(Line(stage, "Not run", 0.0, f"waits for {', '.join(missing)}"))
            continue
        started = time.monotonic()
        states[stage], message = carry_out(stage, upstream)
        table.append(Line(stage, states[stage], time.monotonic() - started, message))
    say("\n" + format_table(table))
    if run.left:
        say(
            f"{', '.join(run.left)}: what this run made lies in {run.snapshot.root}, with its dvc.lock, until the next run begins, and in DVC's cache"
        )
    bad = [line for line in table if line.state not in {*GOOD, "Not run"} or line.stage in run.left]
    return [f"{line.stage}: {line.message}" for line in bad]


def format_table(table: list[Line]) -> str:
    """The table in plain characters: it goes to a log as well as to a terminal. Of a message its first line."""
    width = max([len("stage"), *(len(line.stage) for line in table)])
    rows = [f"{'stage':{width}}  {'state':8}  seconds"]
    rows += [
        f"{line.stage:{width}}  {line.state:8}  {line.seconds:7.1f}  {line.message.partition(chr(10))[0]}".rstrip()
        for line in table
    ]
    return "\n".join(rows)


def count_states(states: Iterable[str]) -> str:
    """How many stages ran and how many were cached."""
    ended = list(states)
    return ", ".join(f"{ended.count(name)} {name}" for name in GOOD)
