"""Trainings with one option each, by options_probe.py."""

import json
from pathlib import Path
from typing import Any

import pytest

from stages.arrow.tables import read_parquet
from stages.contracts import adapter as contract
from stages.core.errors import StageError
from stages.training.trackers import prepare_tracker
from tests.adapter_files import judge_adapter


def losses(options: Path, name: str, key: str = "loss") -> list[float]:
    lines = (options / "options" / name / contract.STEPS).read_text().splitlines()
    return [json.loads(line)[key] for line in lines]


def weights(options: Path, name: str) -> Any:
    from safetensors.torch import load_file

    return load_file(options / "options" / name / contract.WEIGHTS)


def refused(options: Path, name: str) -> str:
    assert not (options / "options" / name).exists()
    said: str = json.loads((options / "options.json").read_text())[name]
    return said


@pytest.mark.slow
def test_dora_trains_its_lengths_and_another_curve(options: Path) -> None:
    values = weights(options, "dora")
    lengths = {name: value for name, value in values.items() if "lora_magnitude_vector" in name}
    assert len(lengths) == 14
    assert losses(options, "dora")[:2] == pytest.approx(losses(options, "plain")[:2], rel=1e-5)
    assert abs(losses(options, "dora")[-1] - losses(options, "plain")[-1]) > 1e-3
    first = weights(options, "plain")
    assert not any("magnitude" in name for name in first)


@pytest.mark.slow
def test_module_to_save_is_trained_whole_and_saved(options: Path) -> None:
    import torch
    from safetensors.torch import load_file

    head = weights(options, "whole_head")["base_model.model.lm_head.weight"]
    before = load_file(options / "base" / "model.safetensors")["lm_head.weight"].float()
    assert head.shape == before.shape
    assert head.dtype == torch.float32
    assert float((head - before).abs().max()) > 0.01
    assert losses(options, "whole_head")[-1] < losses(options, "plain")[-1] - 0.5


@pytest.mark.slow
def test_module_that_cannot_be_saved_is_refused(options: Path) -> None:
    assert "the same weights" in refused(options, "tied_head")
    assert "modules_to_save: the base has no score; it has" in refused(options, "no_module")


@pytest.mark.slow
def test_noise_changes_the_curve_and_comes_again_with_the_seed(options: Path) -> None:
    assert losses(options, "noise") == losses(options, "noise_again")
    assert abs(losses(options, "noise")[0] - losses(options, "plain")[0]) > 1e-3
    assert not any("embed" in name for name in weights(options, "noise"))


@pytest.mark.slow
def test_base_in_16_bit_is_trained_on_too(options: Path) -> None:
    training = json.loads((options / "options" / "sixteen_bit" / contract.TRAINING).read_text())
    assert (training["load_in_4bit"], training["dtype"]) == (False, "bfloat16")
    # NF4 rounds the base: near, and not the same
    assert losses(options, "sixteen_bit") == pytest.approx(losses(options, "plain"), rel=0.1)
    assert losses(options, "sixteen_bit") != losses(options, "plain")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["paged_adamw_8bit", "adamw_torch_fused"])
def test_optimizers_are_one_on_a_cpu(options: Path, name: str) -> None:
    assert losses(options, name) == losses(options, "plain")


@pytest.mark.slow
def test_arithmetic_that_is_not_to_be_had_here_is_refused(options: Path) -> None:
    assert refused(options, "float16") == (
        "train.dtype is float16, but on this cpu the model computes in bfloat16: set train.dtype to that, or to auto"
    )


@pytest.mark.slow
def test_training_out_of_patience_stops_and_keeps_the_best_adapter(options: Path) -> None:
    measured = losses(options, "early", "eval_loss")
    best = measured.index(min(measured)) + 1
    # two measures without a new lowest one, of twelve steps that there could have been
    assert len(measured) == best + 2 < 12
    training = json.loads((options / "options" / "early" / contract.TRAINING).read_text())
    assert training["steps"] == best
    early, until = weights(options, "early"), weights(options, "until_best")
    assert all((early[name] == until[name]).all() for name in until)
    assert early.keys() == until.keys()
    ledgers = [read_parquet(options / "options" / name / contract.LEDGER) for name in ("early", "until_best")]
    assert ledgers[0].equals(ledgers[1])


@pytest.mark.slow
def test_files_of_every_training_tell_the_same_and_steps_that_were_not_kept_are_said(options: Path) -> None:
    written = [path.parent for path in sorted(options.glob(f"options/*/{contract.LEDGER}"))]
    found = {folder.name: judge_adapter(folder, options / "tokens") for folder in written}
    assert {name: check["says"] for name, check in found.items() if not check["passed"]} == {}
    _, log, training = contract.read_trained(options / "options" / "early")
    dropped = log[-1]["step"] - training["steps"]
    assert dropped == 2, "early_stopping waits for two more measures, one a step"
    assert f", {dropped} later ones are not in the adapter (train.keep: best); " in found["early"]["says"]
    assert found["until_best"]["says"] == found["early"]["says"].replace(
        ", 2 later ones are not in the adapter (train.keep: best)", ""
    )


@pytest.mark.slow
def test_training_goes_on_from_an_adapter(options: Path) -> None:
    assert losses(options, "first") == losses(options, "plain")
    # the first step of a warm-up has a rate of 0, so the second one has the loss of the same adapter
    assert losses(options, "second")[0] < losses(options, "first")[-1]


@pytest.mark.slow
def test_adapter_that_cannot_be_gone_on_from_is_refused(options: Path) -> None:
    assert "r is 8 there and 4 in train.lora" in refused(options, "second_other_rank")
    assert "adapter_config.json is missing" in refused(options, "second_nothing")
    assert "was trained on another base" in refused(options, "second_other_base")
    assert "lora_magnitude_vector differs" in refused(options, "second_other_weights")


@pytest.mark.slow
def test_tracker_that_is_not_installed_is_named(options: Path) -> None:
    assert "runtime.report_to is wandb, which is not installed" in refused(options, "tracked")


def test_tracker_writes_into_scratch_unless_told_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("trackio", "mlflow"):
        (tmp_path / f"{name}.py").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mine")
    monkeypatch.setenv("TRACKIO_DIR", "")
    monkeypatch.delenv("TRACKIO_DIR")
    import os

    assert prepare_tracker("trackio", tmp_path / "to") == ["trackio"]
    assert prepare_tracker("mlflow", tmp_path / "to") == ["mlflow"]
    assert prepare_tracker("none", tmp_path / "to") == []
    assert os.environ["TRACKIO_DIR"] == str(tmp_path / "to" / "trackio")
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://mine"
    with pytest.raises(StageError, match="not installed"):
        prepare_tracker("no_such_tracker", tmp_path / "to")
