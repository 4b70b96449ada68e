import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stages.core.params import Runtime
from stages.training.fused_coverage import why_not_fused
from stages.training.memory.estimate import GIB, ExecutionPlan, MemorySetup, estimate_memory
from stages.training.memory.plan import (
    MARGIN,
    Workload,
    find_fastest,
    find_smaller,
    find_smallest,
    fit_runtime,
    list_plans,
    make_workload,
    read_plan,
)
from stages.training.model_shape import ModelShape
from stages.training.params import LoraParams, TrainParams
from stages.training.step_plan import Layout, make_step_plan
from tests.project import ROOT
from tests.stages.training.memory.support.shapes import config_of, tensors_of
from tests.stages.training.support.tiny import RUNTIME, TRAIN

LORA = LoraParams.model_validate({**TRAIN["lora"], "r": 16})
PARAMS = TrainParams.model_validate(
    {**TRAIN, "lora": LORA.model_dump(), "dtype": "auto", "layout": "flattened", "eval_steps": None}
)
AUTO = Runtime.model_validate({**RUNTIME, "micro_batch": "auto", "gradient_checkpointing": "auto"})
FULL = 99
"""Layers kept: all."""
TWO_LONGEST = 2 * 2048
LARGEST_EIGHT = 6342
"""Tokens of the largest step of 8 conversations in `tests.bench.train_data`."""

# GiB that torch had allocated (and reserved) at the peak, on an H100 or H200; shared/gpu/README.md and tests.bench.train
MEASURED = [
    ("packed 2,048, not kept", "3b", True, False, ExecutionPlan(1, 0, 512), 2048, 3.93, 4.34),
    ("packed 3,072, not kept", "3b", True, False, ExecutionPlan(1, 0, 512), 3072, 4.48, 4.92),
    ("packed 4,096, not kept", "3b", True, False, ExecutionPlan(2, 0, 1024), 4096, 5.08, 5.59),
    ("8 conversations, kept", "3b", True, False, ExecutionPlan(8, FULL, 4096), LARGEST_EIGHT, 16.1, None),
    ("packed 8,192, kept", "3b", True, False, ExecutionPlan(4, FULL, 4096), 8192, 20.4, None),
    ("packed 16,384, kept", "3b", True, False, ExecutionPlan(8, FULL, 4096), 16384, 35.6, 36.0),
    ("length 8,192, kept", "3b", True, False, ExecutionPlan(2, FULL, 4096), 16384, 36.4, None),
    ("8B in 4 bit", "8b", True, False, ExecutionPlan(2, FULL, 4096), 8192, 34.9, None),
    ("8B in 16 bit", "8b", False, False, ExecutionPlan(2, FULL, 4096), 8192, 44.4, None),
    ("recipe, padded 2 x 4", "3b", True, True, ExecutionPlan(2, 0, 1), TWO_LONGEST, 2.93, None),
    ("Unsloth flattened", "3b", True, True, ExecutionPlan(8, 0, 1), LARGEST_EIGHT, 3.23, None),
    ("Unsloth flattened, kept", "3b", True, True, ExecutionPlan(8, FULL, 1), LARGEST_EIGHT, 15.74, None),
    ("Unsloth packed 8,192", "3b", True, True, ExecutionPlan(4, 0, 1), 8192, 3.47, None),
    ("Unsloth packed 16,384", "3b", True, True, ExecutionPlan(8, 0, 1), 16384, 4.42, None),
    ("Unsloth packed 4,096, kept", "3b", True, True, ExecutionPlan(2, FULL, 1), 4096, 11.5, None),
    ("Unsloth packed 16,384, kept", "3b", True, True, ExecutionPlan(8, FULL, 1), 16384, 38.1, None),
    ("Unsloth in 16 bit, kept", "3b", False, True, ExecutionPlan(8, FULL, 1), 16384, 41.9, None),
]


def shape(name: str) -> ModelShape:
    return ModelShape.of(config_of(name), tensors_of(name))


def workload(
    name: str = "3b", layout: Layout = "flattened", processes: int = 1, sharding: str = "none", **changed: Any
) -> Workload:
    draw = random.Random(0)
    lengths = [draw.randint(60, 1900) for _ in range(400)]
    pack = 2048 if layout == "packed" else None
    sequences = 8
    sizes = {"conversations_per_step": None, "tokens_per_step": sequences * 2048, "pack_length": 2048} if pack else {}
    params = TrainParams.model_validate({**PARAMS.model_dump(), "layout": layout, **sizes, **changed})
    plan = make_step_plan(lengths, layout, 1, steps=12, epochs=None, sequences=sequences, pack_length=pack)
    return make_workload(
        config_of(name), shape(name), params, plan, lengths, [], on_gpu=True, processes=processes, sharding=sharding
    )


@pytest.mark.parametrize(
    ("name", "four", "unsloth", "execution", "tokens", "allocated", "reserved"),
    [row[1:] for row in MEASURED],
    ids=[row[0] for row in MEASURED],
)
def test_memory_estimate_is_about_what_was_measured(
    name: str,
    four: bool,
    unsloth: bool,
    execution: ExecutionPlan,
    tokens: int,
    allocated: float,
    reserved: float | None,
) -> None:
    setup = MemorySetup(shape(name), LORA, load_in_4bit=four, eight_bit=unsloth, fused=not unsloth)
    held = estimate_memory(setup, execution, tokens)
    above, below = (0.016, 0.06) if unsloth else (0.033, 0.006)
    assert (1 - below) * held.allocated <= allocated * GIB <= (1 + above) * held.allocated
    # where it was not measured, the least that torch reserved above the peak
    assert (allocated + 0.40 if reserved is None else reserved) * GIB <= held.reserved * MARGIN


@pytest.mark.parametrize("row", [row for row in MEASURED if row[-1] is not None], ids=lambda row: row[0])
def test_memory_reserved_is_estimated_no_lower_than_measured_and_at_most_two_and_a_half_percent_higher(
    row: Any,
) -> None:
    _, name, four, unsloth, execution, tokens, _, reserved = row
    setup = MemorySetup(shape(name), LORA, load_in_4bit=four, eight_bit=unsloth, fused=not unsloth)
    held = estimate_memory(setup, execution, tokens)
    # the figures have two decimals
    assert reserved - 0.005 <= held.reserved / GIB <= 1.025 * reserved


def test_memory_counts_the_parameters_that_are_trained() -> None:
    setup = MemorySetup(shape("3b"), LORA, load_in_4bit=True, eight_bit=True, fused=True)
    assert setup.trained == 24_313_856
    with_rows = MemorySetup(shape("8b"), LORA, load_in_4bit=True, eight_bit=True, fused=False, trained_rows=3)
    assert with_rows.trained == 41_943_040 + 2 * 3 * 4096
    assert shape("3b").linear + shape("3b").other == 3_212_749_824


def test_memory_of_a_training_that_adds_up_over_processes_has_their_buckets() -> None:
    one, two = (
        MemorySetup(shape("3b"), LORA, load_in_4bit=True, eight_bit=True, fused=True, processes=n) for n in (1, 2)
    )
    assert two.optimizer - one.optimizer == 4 * one.trained


def test_memory_of_a_base_that_is_spread_has_its_part_and_one_buffer_for_all_layers() -> None:
    setups = [
        MemorySetup(shape("8b"), LORA, load_in_4bit=False, eight_bit=False, fused=True, processes=n, shards=n)
        for n in (1, 2, 4)
    ]
    one, two, four = (estimate_memory(setup, ExecutionPlan(1, 0, 512), 2048) for setup in setups)
    layer = shape("8b").linear / 32 * 2
    # beside the weights the columns of the adapters, which lie in the same buffers
    assert one.weights - two.weights == pytest.approx(shape("8b").linear - layer, rel=0.03)
    assert two.weights - four.weights == pytest.approx(shape("8b").linear / 2, rel=0.03)
    assert one.activations == two.activations


def test_workload_says_why_its_base_cannot_be_spread() -> None:
    whole: dict[str, Any] = {"load_in_4bit": False}
    lora = {**LORA.model_dump(), "use_dora": True}
    assert workload(sharding="fsdp", processes=2, **whole).not_sharded is None
    assert workload(sharding="fsdp", processes=2, **whole).setup.shards == 2
    assert workload(sharding="fsdp", processes=1).not_sharded is None
    assert workload(sharding="fsdp", processes=1, **whole).setup.shards == 1
    assert workload(sharding="none", processes=2).setup.shards == 1
    for changed, words in (
        ({}, "4 bit"),
        ({**whole, "layout": "padded"}, "flat batches"),
        ({**whole, "lora": lora}, "DoRA"),
    ):
        reason = workload(sharding="fsdp", processes=2, **changed).not_sharded
        assert reason is not None
        assert words in reason


@pytest.mark.parametrize(
    ("layout", "changed", "capability", "reason"),
    [
        ("flattened", {}, 8.6, None),
        ("packed", {}, None, None),
        ("padded", {}, 8.6, "layout padded"),
        ("flattened", {}, 7.5, "a GPU older than Ampere"),
        ("flattened", {"use_dora": True}, 8.6, "DoRA"),
        ("flattened", {"dropout": 0.1}, 8.6, "dropout"),
        ("flattened", {"modules_to_save": ["lm_head"]}, 8.6, "modules that are trained whole"),
    ],
)
def test_memory_plan_knows_what_the_fused_forward_does_not_take(
    layout: str, changed: dict[str, Any], capability: float | None, reason: str | None
) -> None:
    lora = LoraParams.model_validate({**LORA.model_dump(), **changed})
    found = why_not_fused(config_of("3b"), shape("3b"), lora, layout=layout, dtype="auto", capability=capability)
    assert found == reason


def test_auto_takes_more_of_a_larger_memory_and_never_more_than_there_is() -> None:
    work = workload()
    found = [
        find_fastest(list_plans(work, micro_batch=None, kept_layers=None), room * GIB) for room in (5, 6, 11, 24, 80)
    ]
    assert all(
        choice is not None and choice.memory.reserved <= room * GIB
        for choice, room in zip(found, (5, 6, 11, 24, 80), strict=True)
    )
    times = [choice.seconds for choice in found if choice is not None]
    assert times == sorted(times, reverse=True)
    assert len(set(times)) > 3
    assert found[-1] is not None
    assert found[-1].execution == ExecutionPlan(8, 28, 4096)
    assert any(choice is not None and 0 < choice.execution.kept_layers < 28 for choice in found)


def test_auto_where_nothing_fits_is_the_smallest_plan() -> None:
    work = workload()
    chosen = fit_runtime(AUTO, work, on_gpu=True, room=1 * GIB)
    least = find_smallest(list_plans(work, micro_batch=None, kept_layers=None))
    assert read_plan(chosen, 28) == least.execution
    assert (least.execution.micro_batch, least.execution.kept_layers) == (1, 0)


def test_auto_leaves_what_the_user_has_chosen() -> None:
    work = workload()
    chosen = fit_runtime(AUTO.model_copy(update={"micro_batch": 2}), work, on_gpu=True, room=79 * GIB)
    assert (chosen.micro_batch, chosen.gradient_checkpointing, chosen.kept_layers) == (2, "off", None)
    chosen = fit_runtime(AUTO.model_copy(update={"gradient_checkpointing": "on"}), work, on_gpu=True, room=79 * GIB)
    assert (chosen.gradient_checkpointing, chosen.kept_layers) == ("on", 0)
    both = AUTO.model_copy(update={"micro_batch": 4, "gradient_checkpointing": "off"})
    assert read_plan(fit_runtime(both, work, on_gpu=True, room=1 * GIB), 28).kept_layers == 28


def test_auto_on_a_cpu_is_a_fixed_choice() -> None:
    flat, packed = (
        fit_runtime(AUTO, workload(layout=layout), on_gpu=False, room=None) for layout in ("flattened", "packed")
    )
    assert (flat.micro_batch, flat.gradient_checkpointing) == (8, "off")
    assert packed.micro_batch == 1


def test_sizes_of_micro_batches_count_the_filling() -> None:
    flat, padded, packed = (workload(layout=layout).sizes for layout in ("flattened", "padded", "packed"))
    assert padded[2].amount.run_tokens > padded[2].amount.tokens == flat[2].amount.tokens == flat[2].amount.run_tokens
    assert padded[2].largest % 2 == 0
    assert (packed[1].largest, packed[4].largest) == (2048, 8192)
    assert packed[4].amount.micro_batches == 24
    assert max(workload(processes=2).sizes) == 4


def test_next_smaller_takes_less_and_ends() -> None:
    work = workload(layout="packed")
    execution, seen = ExecutionPlan(8, 28, 4096), [work.estimate(ExecutionPlan(8, 28, 4096)).memory.reserved]
    while (smaller := find_smaller(work, execution)) is not None:
        execution = smaller
        seen.append(work.estimate(execution).memory.reserved)
    assert seen == sorted(seen, reverse=True)
    assert len(seen) > 5
    assert (execution.micro_batch, execution.kept_layers) == (1, 0)


@pytest.mark.parametrize("kept", [28, 14])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_next_smaller_does_not_enlarge_the_micro_batch(size: int, kept: int) -> None:
    # a GPU so fast that fewer, larger micro-batches with everything made again would be the faster ones
    smaller = find_smaller(replace(workload(layout="packed"), rate=5e15), ExecutionPlan(size, kept, 4096))
    assert smaller is not None
    assert smaller.micro_batch <= size


def test_memory_counts_the_logits_where_they_are_more_than_a_layers_work() -> None:
    setup = MemorySetup(shape("3b"), LORA, load_in_4bit=True, eight_bit=True, fused=True)
    few, many = (estimate_memory(setup, ExecutionPlan(2, 0, rows), 4096).allocated for rows in (1024, 4096))
    assert many - few == pytest.approx(3072 * 128256 * 2, rel=0.1)


def test_memory_counts_the_heldout_rows_where_they_need_more_than_training() -> None:
    setup = MemorySetup(shape("3b"), LORA, load_in_4bit=True, eight_bit=True, fused=True)
    without, short, long = (
        estimate_memory(setup, ExecutionPlan(1, 0, 512), 2048, heldout).allocated for heldout in (0, 2048, 32768)
    )
    assert without == short
    assert long > without + 2 * GIB


def test_shape_of_a_config_without_sizes_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="hidden_size"):
        ModelShape.of({"model_type": "odd"}, tensors_of("3b"))


def test_memory_plan_loads_no_torch() -> None:
    code = "import sys, retune.plan.figures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def probe(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    root = ROOT
    command = [sys.executable, str(root / "tests/stages/training/memory/support/memory_probe.py"), *arguments]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_training_out_of_memory_goes_on_from_its_checkpoint_with_a_smaller_plan(
    tiny_base: Path, tmp_path: Path
) -> None:
    for name in ("base", "tokens"):
        (tmp_path / name).symlink_to(tiny_base / name)
    # the allocator refuses every forward pass of more than 4 rows from the 4th on
    done = probe(tmp_path, "adapter", "4", "4", "gradient_checkpointing=unsloth")
    assert done.returncode == 0, done.stdout + done.stderr
    said = [line.removeprefix("train: ") for line in done.stdout.splitlines()]
    first = next(
        number
        for number, line in enumerate(said)
        if line.startswith("out of memory with micro-batch 8, activations computed again")
    )
    assert "going on from the last checkpoint" in said[first]
    assert "resumed after step 2 of 6" in said[first:]
    plan = json.loads((tmp_path / "figures.json").read_text())["plan"]
    assert (plan["micro_batch"], plan["after_out_of_memory"]) == (4, True)
    steps = [json.loads(line)["step"] for line in (tmp_path / "adapter/steps.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert not (tmp_path / ".retune/checkpoints/smaller.json").exists()

    # the mathematics is the same: only rounding tells the two apart
    shutil.move(tmp_path / ".retune", tmp_path / "before")
    alone = probe(tmp_path, "alone", "99")
    assert alone.returncode == 0, alone.stdout + alone.stderr
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "steps.jsonl").read_text().splitlines()]
        for name in ("adapter", "alone")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
def test_training_out_of_memory_with_the_smallest_plan_says_what_to_change(tiny_base: Path, tmp_path: Path) -> None:
    for name in ("base", "tokens"):
        (tmp_path / name).symlink_to(tiny_base / name)
    done = probe(tmp_path, "adapter", "0", "1", "micro_batch=1", "gradient_checkpointing=unsloth")
    assert done.returncode == 1
    assert "the smallest plan (micro-batch 1" in done.stderr
    assert "train.lora.r" in done.stderr
    assert "Traceback" not in done.stderr
