"""A training that ran out of memory goes on from its last checkpoint with a smaller plan, in a fresh process.

The process is replaced (same id, same command line): what a broken-off backward pass leaves in a GPU's memory, and in pieces, goes
with it. What to take is noted in `.retune/checkpoints/smaller.json`, for the same params and limits only, until the training has ended.
"""

import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from stages.core.errors import StageError
from stages.core.files import read_json, write_json
from stages.training.memory.estimate import ExecutionPlan, MemorySetup, describe_plan

log = logging.getLogger("retune")

NOTE = "smaller.json"
SAID = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
"""What libraries say in a RuntimeError that is no OutOfMemoryError."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or a library under it found no memory."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in SAID)


def read_note(folder: Path, asked: Mapping[str, Any]) -> ExecutionPlan | None:
    """The plan that an earlier process of the same training said to take; None where there is no such note.

    Args:
        folder: `.retune/checkpoints`.
        asked: what the plan was for, as JSON values.
    """
    path = folder / NOTE
    try:
        note = read_json(path)
        return ExecutionPlan(**note["execution"]) if note["asked"] == to_json_value(asked) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_note(folder: Path, asked: Mapping[str, Any], execution: ExecutionPlan) -> None:
    """The opposite of `read_note`."""
    write_json(folder / NOTE, {"asked": to_json_value(asked), "execution": asdict(execution)})


def remove_note(folder: Path) -> None:
    """The training has ended."""
    (folder / NOTE).unlink(missing_ok=True)


def to_json_value(asked: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """As it comes back from a file."""
    return json.loads(json.dumps(asked))


def go_on_smaller(
    folder: Path,
    asked: Mapping[str, Any],
    setup: MemorySetup,
    execution: ExecutionPlan,
    smaller: ExecutionPlan | None,
    *,
    alone: bool,
) -> NoReturn:
    """Replace this process by one that takes a smaller plan from the last checkpoint. Raises StageError if there is no smaller one.

    Not `alone`, where torchrun has started the processes: raises StageError as well, and the next run takes the smaller plan.
    """
    if smaller is None:
        raise StageError(
            f"the memory is not enough for the smallest plan (micro-batch {execution.micro_batch}, activations computed again): set a smaller "
            "template.max_length, train.pack_length or train.lora.r, train.load_in_4bit: true, or raise runtime.memory_limit_gb; "
            "`retune plan` shows what each asks for"
        )
    write_note(folder, asked, smaller)
    if not alone:
        raise StageError(
            f"out of memory with {describe_plan(setup, execution)}: run it again, it goes on from the last checkpoint with {describe_plan(setup, smaller)}"
        )
    log.warning(
        "out of memory with %s: going on from the last checkpoint with %s",
        describe_plan(setup, execution),
        describe_plan(setup, smaller),
    )
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - this very command again
