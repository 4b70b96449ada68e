"""The execution record: when, where and how a run was carried out, and what ran of what params.yaml asked for.

data/execution/STAGE.json is an output of each stage but `check` that no stage reads. It is no part of data/records, whose hashes go into
the exported files: another machine must not make another file. A run out of DVC's run cache brings the record of the run that made the files.

While it works a stage notes figures (`note_figures`) and what ran (`note_ran`, `note_choice`); the runner writes all of it, with what it
sees of the machine, when the outputs are in their place. So a stage that failed or was interrupted leaves none.
"""

import logging
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from typing_extensions import TypedDict

from stages.core.asked_and_ran import AskedAndRan, Observation, compare, make_plain
from stages.core.files import sha256_file, write_json
from stages.core.machine import (
    Gpus,
    Processor,
    System,
    Torch,
    read_gpus,
    read_process_age,
    read_processor,
    read_python,
    read_system,
    read_torch,
)
from stages.core.params import Params
from stages.core.source_state import GitQuery, SourceState, start_git_query

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger("retune")

VERSION: Final = 1
"""Of the record's form. A reader says so where it finds another."""
LOCKS = ("requirements.lock", "requirements-apart.lock")
"""The locks of the environment: of all packages, and of those beside them that are in no key."""


class RecordOfRun(TypedDict):
    """The record that an execution record is beside."""

    path: str
    sha256: str


class ExecutionRecord(TypedDict):
    """data/execution/STAGE.json."""

    version: int
    stage: str
    record: RecordOfRun | None
    """data/records/STAGE.json of the same run; None for a stage that writes none."""
    outputs: dict[str, str]
    """{path: sha256 of the whole, as a record has it} of the same run."""
    started_at: str
    """UTC, ISO 8601."""
    wall_seconds: float
    """From the process's beginning, imports included, to its outputs in their place."""
    cpu_seconds: float
    """Of this process and of those that it has waited for, user and system."""
    peak_resident_mib: int
    """Of this process."""
    children_peak_resident_mib: int
    """Of the largest process that it has waited for."""
    python: str
    system: System
    processor: Processor
    gpu: Gpus
    torch: Torch | None
    """None where the stage loaded no torch."""
    source: SourceState
    """The checkout when the stage began."""
    environment_locks: dict[str, str | None]
    """{lock of the environment: sha256 when the stage ended}; None where it is not there."""
    figures: dict[str, Any]
    """What the stage noted of how it worked; `device` of a stage that runs a model, and `plan` of a training."""
    asked_and_ran: dict[str, AskedAndRan]
    """{key of params.yaml: what was asked, what ran}: each key of the stage's section, each of `runtime` that it uses."""


@dataclass
class ExecutionNotes:
    """What a stage has told of its own run so far."""

    figures: dict[str, Any] = field(default_factory=dict)
    observations: dict[str, Observation] = field(default_factory=dict)


NOTES = ExecutionNotes()
"""Of this process: a stage is one."""


def note_figures(**figures: object) -> None:
    """Note how the work was done (device, the plan taken, seconds): what bears no identity. Values are JSON's."""
    NOTES.figures.update(figures)


def note_ran(ran: Mapping[str, object], why: str = "") -> None:
    """Note what was seen to run, {key of params.yaml such as `train.lora.r`: value as the key has it}.

    Only what was looked at in what ran (an optimizer, a module, a file, a count), never the param itself.
    `why`: the reason where it is not what was asked.
    """
    NOTES.observations.update({key: Observation(value, why) for key, value in ran.items()})


def note_choice(ran: Mapping[str, object], why: str) -> None:
    """The same of keys that may leave the choice to the run (auto, null): `why` says how it chose where one did."""
    NOTES.observations.update({key: Observation(value, why, chosen=True) for key, value in ran.items()})


def note_unknown(why: str, *keys: str) -> None:
    """Note of keys that what ran does not tell, and why."""
    NOTES.observations.update({key: Observation(None, why, known=False) for key in keys})


def guard_notes(observe: Callable[P, R]) -> Callable[P, R | None]:
    """Make a function that looks at what ran fail no stage: what it has not noted by then stays unknown, and the log says so."""

    @wraps(observe)
    def guarded(*rest: P.args, **named: P.kwargs) -> R | None:
        try:
            return observe(*rest, **named)
        except Exception as error:  # noqa: BLE001 - a library may have changed in any way; the work is done, and hours may be in it
            # without its text, which may be a dataset's
            log.warning("execution record: %s could not look at all of it (%s)", observe.__name__, type(error).__name__)
            return None

    return guarded


@dataclass
class RunStart:
    """What is known when a stage begins."""

    path: Path | None
    """Where the execution record goes; None: none is asked for."""
    started: float
    """Seconds since the epoch."""
    clock: float
    """Seconds of a clock that nobody sets."""
    git: GitQuery
    source: SourceState | None = None

    def end_query(self) -> SourceState:
        """What git has answered; waits for it if it must, so best asked before the last look at what the stage has read."""
        if self.source is None:
            self.source = self.git.read()
        return self.source


def begin_execution(path: str, started: float) -> RunStart:
    """Look at the checkout as it is now, beside the work.

    Args:
        path: data/execution/STAGE.json; empty where no execution record is asked for.
        started: seconds since the epoch, where the system does not say when the process began.
    """
    age = read_process_age()
    age = time.time() - started if age is None else age
    query = start_git_query(Path.cwd()) if path else GitQuery(None, None, "nobody asked")
    return RunStart(Path(path) if path else None, time.time() - age, time.monotonic() - age, query)


def write_execution(
    begun: RunStart,
    stage: str,
    params: Params | None,
    runtime: Params | None,
    runtime_keys: tuple[str, ...],
    record: str,
    outputs: Mapping[str, str],
) -> None:
    """Write the execution record of a run that has come to its end, if one is asked for.

    Args:
        begun: what `begin_execution` gave.
        stage: its name.
        params: the stage's section of params.yaml as it read it.
        runtime: the section `runtime` as it read it.
        runtime_keys: the keys of `runtime` that the stage uses.
        record: path of the record of the same run, in its place; empty where there is none.
        outputs: {path: sha256 of the whole}.
    """
    if begun.path is None:
        return
    asked = {stage: params, "runtime": runtime}
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    found = ExecutionRecord(
        version=VERSION,
        stage=stage,
        record=RecordOfRun(path=record, sha256=sha256_file(Path(record))) if record else None,
        outputs=dict(outputs),
        started_at=datetime.fromtimestamp(begun.started, UTC).isoformat(timespec="seconds"),
        wall_seconds=round(time.monotonic() - begun.clock, 3),
        cpu_seconds=round(own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime, 3),
        peak_resident_mib=own.ru_maxrss // 1024,
        children_peak_resident_mib=children.ru_maxrss // 1024,
        python=read_python(),
        system=read_system(),
        processor=read_processor(),
        gpu=read_gpus(),
        torch=read_torch(),
        source=begun.end_query(),
        environment_locks={name: sha256_file(Path(name)) if Path(name).is_file() else None for name in LOCKS},
        figures=make_plain(NOTES.figures),
        asked_and_ran=compare(
            {section: read for section, read in asked.items() if read is not None},
            (*runtime_keys, "log_level"),
            {**NOTES.observations, **(observe_log() if runtime else {})},
        ),
    )
    write_json(begun.path, found)


def observe_log() -> dict[str, Observation]:
    """How much this process says."""
    return {"runtime.log_level": Observation(logging.getLevelName(logging.getLogger().level).lower())}
