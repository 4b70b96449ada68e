"""Rows that are a preset: what it says of a step, and the plan that training makes of it for the row's memory."""

from dataclasses import replace
from pathlib import Path

from retune.use.presets import read_preset
from stages.core.params import Runtime, section_params
from stages.models.base_model import read_config
from stages.training.memory.estimate import GIB
from stages.training.memory.fit import read_shape
from stages.training.memory.plan import fit_runtime, make_workload
from stages.training.memory.step_time import UNKNOWN_RATE, rate_of
from stages.training.params import TrainParams
from stages.training.step_plan import make_step_plan
from tests.bench.train_data import Row, conversations
from tests.project import ROOT


def as_preset(row: Row, base: Path) -> Row:
    """A packed row with its preset in it, on this GPU with `row.cap_gib` of memory.

    Raises StageError if the preset does not fit together.
    """
    import torch

    on_gpu = torch.cuda.is_available()
    major, minor = torch.cuda.get_device_capability() if on_gpu else (9, 0)
    rate = rate_of(torch.cuda.get_device_name()) if on_gpu else None
    values = read_preset(ROOT, row.preset)
    params, runtime = section_params(TrainParams, "train", values), section_params(Runtime, "runtime", values)
    pack, step = params.pack_length or 0, params.tokens_per_step or 0
    lengths = [len(ids) for ids, _ in conversations(row, row.steps * step // 256)]
    plan = make_step_plan(
        lengths, "packed", params.seed, steps=row.steps, epochs=None, sequences=step // pack, pack_length=pack
    )
    work = make_workload(
        read_config(base),
        read_shape(base, None),
        params,
        plan,
        lengths,
        [],
        on_gpu=True,
        capability=major + minor / 10,
        rate=rate or UNKNOWN_RATE,
    )
    taken = fit_runtime(runtime, work, on_gpu=True, room=(row.cap_gib or 0) * GIB)
    return replace(
        row,
        tokens=taken.micro_batch * pack,
        parts=step // (taken.micro_batch * pack),
        kept=taken.kept_layers,
        loss_rows=taken.loss_rows,
        optimizer=params.optimizer,
    )
