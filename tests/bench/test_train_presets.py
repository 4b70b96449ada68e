"""A bench row of a preset measures what the preset says: its steps, its optimizer, and the plan for its memory."""

from pathlib import Path

import pytest

from retune.use.presets import read_preset
from stages.training.memory.estimate import GIB, ExecutionPlan, MemorySetup, estimate_memory
from stages.training.model_shape import ModelShape
from stages.training.params import TrainParams
from tests.bench.train_data import ROWS, micro_batches
from tests.bench.train_presets import as_preset
from tests.project import ROOT
from tests.stages.training.memory.support.shapes import config_of, tensors_of, write_base

PRESETS = ("packed-6gb", "packed-8gb")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes") / "3b"
    write_base(folder, "3b")
    return folder


@pytest.mark.parametrize("name", PRESETS)
def test_row_of_a_preset_has_its_step_and_optimizer(name: str, base: Path) -> None:
    row, train = as_preset(ROWS[name], base), read_preset(ROOT, ROWS[name].preset)["train"]
    assert row.tokens * row.parts == train["tokens_per_step"]
    assert row.optimizer == train["optimizer"]
    assert {len(step) for step in micro_batches(row, row.steps)} == {row.parts}


@pytest.mark.parametrize("name", PRESETS)
def test_row_of_a_preset_fits_its_card(name: str, base: Path) -> None:
    row, values = as_preset(ROWS[name], base), read_preset(ROOT, ROWS[name].preset)
    setup = MemorySetup(
        shape=ModelShape.of(config_of("3b"), tensors_of("3b")),
        lora=TrainParams.model_validate(values["train"]).lora,
        load_in_4bit=True,
        eight_bit=True,
        fused=True,
    )
    held = estimate_memory(
        setup, ExecutionPlan(row.tokens // 2048, row.kept or 0, row.loss_rows), row.tokens, row.tokens
    )
    assert row.kept is not None
    assert held.reserved < (row.cap_gib or 0) * GIB


def test_preset_for_6_gb_takes_a_pack_at_a_time_and_keeps_what_its_limit_leaves_room_for(base: Path) -> None:
    runtime = read_preset(ROOT, "llama-3.2-3b-packed-6gb")["runtime"]
    assert runtime["memory_limit_gb"] == ROWS["packed-6gb"].cap_gib
    row = as_preset(ROWS["packed-6gb"], base)
    assert (row.tokens, row.parts) == (2048, 8)
    assert row.kept is not None
    assert row.kept > 0
