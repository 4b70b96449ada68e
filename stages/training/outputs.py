"""What a training leaves: the adapter's folder, and how it was done in the execution record."""

import importlib.metadata
import json
import logging
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from stages.arrow.tables import write_parquet
from stages.contracts import adapter as contract
from stages.contracts import tokens as token_files
from stages.core.execution import note_figures
from stages.core.files import write_json, write_text
from stages.core.params import Runtime
from stages.models.base_model import base_digests, device
from stages.training.lora import compute_dtype, read_base_name, save_adapter
from stages.training.step_log import make_ledger
from stages.training.task import Task
from stages.training.work import Work

if TYPE_CHECKING:
    from peft import PeftModel

log = logging.getLogger("retune")

PACKAGES = ("unsloth", "unsloth_zoo", "torch", "transformers", "trl", "peft", "bitsandbytes")
"""Whose versions shape a training."""


def versions() -> dict[str, str]:
    """{package: installed version} of `PACKAGES`."""
    return {package: importlib.metadata.version(package) for package in PACKAGES}


def write_adapter(model: "PeftModel", task: Task, work: Work, adapter: Path) -> None:
    """Write the adapter's folder: of the last step, or of the best."""
    training = contract.Training(
        base=base_digests(task.base),
        load_in_4bit=task.params.load_in_4bit,
        dtype=compute_dtype(model),
        embedding_rows=task.embedding_rows,
        trained_rows=task.trained_rows,
        steps=work.kept_step(),
    )
    save_adapter(model, adapter, *read_base_name(task.base))
    for file in sorted((task.tokens / token_files.TOKENIZER).iterdir()):
        shutil.copyfile(file, adapter / file.name)
    write_json(adapter / contract.TRAINING, training)
    lines = [json.dumps(line, sort_keys=True, allow_nan=False) + "\n" for line in work.step_log.lines]
    write_text(adapter / contract.STEPS, "".join(lines))
    steps = work.step_log.rows_of_steps(work.kept_step())
    write_parquet(adapter / contract.LEDGER, make_ledger(work.rows.table, work.rows.labelled, steps))
    loss = work.step_log.lines[-1]["loss"]
    log.info("%d steps, final loss %.4f; the adapter is that of step %d", work.step_log.step, loss, work.kept_step())


def note_execution(work: Work, runtime: Runtime, started: float, loaded: float) -> None:
    """Note how it was done for the execution record."""
    import torch

    seconds = time.monotonic() - loaded
    on_gpu = device(runtime) == "cuda"
    note_figures(
        device=torch.cuda.get_device_name() if on_gpu else "cpu",
        layout=work.layout,
        micro_batch=work.micro_batch,
        load_seconds=loaded - started,
        train_seconds=seconds,
        resumed_after_step=work.step_log.started_at,
        tokens=work.step_log.tokens_seen,
        tokens_per_second=work.step_log.tokens_seen / seconds,
        processes=work.group.size,
        peak_gpu_mib=work.peak_gpu_mib,
        versions=versions(),
    )
