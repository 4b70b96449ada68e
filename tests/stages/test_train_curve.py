"""The curve of a tiny training: as it ever was, and as plain transformers + peft + bitsandbytes draw it."""

import json
import math
from pathlib import Path

import pytest

from stages.contracts import adapter as contract
from tests.stages.conftest import run_probe
from tests.stages.training.support.tiny import TRAIN

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[1] / "golden" / "train_tiny.jsonl"


def lines_of(path: Path) -> list[contract.Step]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def compare(found: list[contract.Step], wanted: list[contract.Step], loss: float, norm: float) -> None:
    assert [line["step"] for line in found] == [line["step"] for line in wanted] == list(range(1, TRAIN["steps"] + 1))
    for one, other in zip(found, wanted, strict=True):
        assert math.isclose(one["loss"], other["loss"], rel_tol=loss), one["step"]
        assert math.isclose(one["grad_norm"], other["grad_norm"], rel_tol=norm), one["step"]
        assert math.isclose(one["learning_rate"], other["learning_rate"], rel_tol=1e-9, abs_tol=1e-12), one["step"]


def test_curve_is_the_committed_one(trained: Path) -> None:
    # equal on the machine that wrote it; other processors add in other orders. If a release is meant to change it,
    # write the new one: it is `curve/steps.jsonl` in this test's folder.
    compare(lines_of(trained / "curve" / contract.STEPS), lines_of(GOLDEN), loss=1e-4, norm=1e-3)


def test_curve_is_that_of_plain_transformers_peft_and_bitsandbytes(trained: Path) -> None:
    arguments = ["base", "tokens", f"curve/{contract.LEDGER}", "initial.safetensors", "reference.jsonl"]
    run_probe(trained, "support.reference_probe", *arguments)
    # found, relative, over 16 steps in which the loss falls from 6.4 to 1.5: 1e-7 (loss), 1e-6 (gradient norm)
    curve, reference = lines_of(trained / "curve" / contract.STEPS), lines_of(trained / "reference.jsonl")
    compare(curve, reference, loss=1e-5, norm=1e-4)
    assert reference[-1]["loss"] < reference[0]["loss"] / 3
