"""A real training whose base is spread over two processes learns what one with the whole base does; Unsloth's patches are live."""

import json
from pathlib import Path

import pytest

from stages.contracts import adapter as contract
from tests.stages.conftest import run_probe
from tests.stages.test_train_processes import compare, steps_of
from tests.stages.training.distributed.support.sharded_probe import LAYOUTS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sharded(tiny_base: Path) -> Path:
    """`tiny_base` after sharded_probe.py."""
    run_probe(tiny_base, "distributed.support.sharded_probe")
    return tiny_base


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sharded_training_learns_what_a_whole_one_does(sharded: Path, layout: str) -> None:
    said = json.loads((sharded / "sharded_probe.json").read_text())
    assert said[f"{layout}-1"]["said"] == said[f"{layout}-2"]["said"] == ""
    one, two = sharded / "sharded" / f"{layout}-1", sharded / "sharded" / f"{layout}-2"
    compare(one, two)
    assert steps_of(two)[-1]["loss"] < steps_of(two)[0]["loss"] / 2
    assert steps_of(two)[-1]["eval_loss"] is not None
    assert (one / contract.CONFIG).read_bytes() == (two / contract.CONFIG).read_bytes()


@pytest.mark.parametrize(
    ("what", "words"), [("4bit", "train.load_in_4bit to false"), ("padded", "flattened or packed")]
)
def test_sharding_of_what_cannot_be_is_refused_with_what_to_do(sharded: Path, what: str, words: str) -> None:
    assert words in json.loads((sharded / "sharded_probe.json").read_text())[what]["said"]
    assert not (sharded / "sharded" / what).exists()
