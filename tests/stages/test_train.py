import json
import math
from pathlib import Path

import pyarrow as pa
import pytest

from stages.arrow.tables import read_parquet
from stages.contracts import adapter as contract
from stages.contracts.tokens import SCHEMA, read_tokens
from stages.core.asked_and_ran import AskedAndRan
from stages.core.errors import StageError
from stages.core.params import Runtime, section_problems
from stages.train import RUNTIME_KEYS
from stages.training.lora import read_base_name
from stages.training.params import TrainParams
from stages.training.planned_trainer import check_gradients
from stages.training.task import plan_steps
from stages.training.token_rows import TokenRows
from tests.adapter_files import judge_adapter
from tests.stages.training.support.tiny import RUNTIME, TRAIN

PACKED: dict[str, object] = {
    "layout": "packed",
    "conversations_per_step": None,
    "tokens_per_step": 128,
    "pack_length": 64,
}


def rows(*labels: list[int]) -> pa.Table:
    return pa.table([[f"row{number}" for number in range(len(labels))], list(labels), list(labels)], schema=SCHEMA)


@pytest.mark.parametrize(("steps", "epochs"), [(None, None), (3, 1.0)])
def test_params_with_both_or_neither_length_are_refused(steps: int | None, epochs: float | None) -> None:
    assert section_problems(TrainParams, "train", {**TRAIN, "steps": steps, "epochs": epochs})


def test_params_without_a_key_are_refused() -> None:
    assert section_problems(TrainParams, "train", {**TRAIN}) == []
    for key in TRAIN:
        assert section_problems(TrainParams, "train", {name: TRAIN[name] for name in TRAIN if name != key}), key


@pytest.mark.parametrize(
    "changed",
    [
        {"layout": "packed"},
        {"conversations_per_step": None},
        {"pack_length": 64},
        {"tokens_per_step": 64},
        {**PACKED, "conversations_per_step": 8},
        {**PACKED, "pack_length": None},
        {**PACKED, "tokens_per_step": 100},
        {"eval_steps": None, "early_stopping": 2},
        {"eval_steps": None, "keep": "best"},
    ],
)
def test_params_that_contradict_each_other_are_refused(changed: dict[str, object]) -> None:
    assert section_problems(TrainParams, "train", {**TRAIN, **PACKED}) == []
    assert section_problems(TrainParams, "train", {**TRAIN, **changed})


def test_step_of_packed_params_has_its_tokens() -> None:
    params = TrainParams.model_validate({**TRAIN, **PACKED})
    made = plan_steps(TokenRows(rows(*[[1] * 9] * 40)), params)
    assert [len(step) for step in made.steps] == [2, 2, 2] * 5 + [2]
    assert all(len(pack) in {7, 5} for step in made.steps for pack in step)


@pytest.mark.slow
def test_part_of_the_adapter_without_gradient_stops_the_training() -> None:
    import torch

    model = torch.nn.ModuleDict({"lora_A": torch.nn.Linear(2, 2), "other": torch.nn.Linear(2, 2)})
    with pytest.raises(StageError, match=r"2 parts of the adapter are not trained, lora_A\.weight"):
        check_gradients(model)
    model["lora_A"](torch.ones(2)).sum().backward()
    check_gradients(model)


def test_base_name_is_the_hubs_or_the_pipelines_folder_never_a_path(tmp_path: Path) -> None:
    assert read_base_name(tmp_path) == ("data/base", None)
    (tmp_path / "source.json").write_text(json.dumps({"source": "custom", "revision": None, "files": {}}))
    assert read_base_name(tmp_path) == ("data/base", None)
    (tmp_path / "source.json").write_text(json.dumps({"source": "org/name", "revision": "a" * 40, "files": {}}))
    assert read_base_name(tmp_path) == ("org/name", "a" * 40)


def steps_of(folder: Path) -> list[contract.Step]:
    return [json.loads(line) for line in (folder / contract.STEPS).read_text().splitlines()]


@pytest.mark.slow
def test_training_twice_gives_the_same_bytes(trained: Path) -> None:
    names = sorted(file.name for file in (trained / "adapter").iterdir())
    assert names == sorted(file.name for file in (trained / "again").iterdir())
    for name in names:
        assert (trained / "adapter" / name).read_bytes() == (trained / "again" / name).read_bytes(), name


@pytest.mark.slow
def test_training_learns(trained: Path) -> None:
    lines = steps_of(trained / "adapter")
    assert [line["step"] for line in lines] == [4, 8, 12, 16]
    assert lines[-1]["loss"] < lines[0]["loss"] - 1
    assert lines[1]["eval_loss"] is not None
    assert lines[3]["eval_loss"] is not None
    assert lines[3]["eval_loss"] < lines[1]["eval_loss"]


@pytest.mark.slow
@pytest.mark.parametrize("other", ["whole_step", "flattened"])
def test_step_gives_the_same_update_however_it_is_cut_and_laid_out(trained: Path, other: str) -> None:
    from safetensors.numpy import load_file

    # 4 x 2 padded, 1 x 8 padded, 1 x 8 flattened, 16 steps: losses differed by 2e-7 (relative), weights of up to 0.18 by 2e-6
    for one, two in zip(steps_of(trained / "adapter"), steps_of(trained / other), strict=True):
        assert math.isclose(one["loss"], two["loss"], rel_tol=1e-5)
        assert math.isclose(one["grad_norm"], two["grad_norm"], rel_tol=1e-4)
    left, right = (load_file(trained / name / contract.WEIGHTS) for name in ("adapter", other))
    for name in left:
        assert abs(left[name] - right[name]).max() < 1e-4, name


@pytest.mark.slow
def test_model_gets_our_labels_in_every_batch_with_unsloth_live(trained: Path) -> None:
    batches = json.loads((trained / "probe.json").read_text())["batches"]
    assert sum(len(batch["rows"]) for batch in batches) == 16
    assert len({row for batch in batches for row in batch["rows"]}) == 16
    for batch in batches:
        longest = max(len(row) for row in batch["wanted"])
        for place, wanted in enumerate(batch["wanted"]):
            assert batch["labels"][place] == wanted + [-100] * (longest - len(wanted))
            assert batch["input_ids"][place][: len(wanted)] == batch["wanted_ids"][place]
            assert batch["attention_mask"][place] == [1] * len(wanted) + [0] * (longest - len(wanted))


@pytest.mark.slow
def test_diverged_training_stops_and_names_step_and_rows(trained: Path) -> None:
    said = json.loads((trained / "probe.json").read_text())["wild"]
    assert said.startswith("step ")
    assert "train.learning_rate" in said
    assert read_tokens(trained / "tokens" / "train.arrow")["row_id"][0].as_py()[:20] in said
    assert not (trained / "wild").exists()


@pytest.mark.slow
def test_ledger_counts_every_row_of_every_step(trained: Path) -> None:
    table = read_parquet(trained / "adapter" / contract.LEDGER)
    steps = table["steps"].to_pylist()
    # 16 steps of 8 are 128 of 24 rows: five epochs, and 8 rows of the sixth
    assert sorted(len(row) for row in steps) == [5] * 16 + [6] * 8
    assert sorted(step for row in steps for step in row) == sorted(list(range(1, 17)) * 8)
    tokens = sum(count * len(row) for count, row in zip(table["labelled_tokens"].to_pylist(), steps, strict=True))
    assert tokens == steps_of(trained / "adapter")[-1]["tokens"]
    assert judge_adapter(trained / "adapter", trained / "tokens")["says"] == (
        f"24 of 24 training conversations were trained (100.0%) in 16 steps; {sum(table['labelled_tokens'].to_pylist()):,} of "
        f"{sum(table['labelled_tokens'].to_pylist()):,} labelled tokens were reached (100.0%), with repetitions {tokens:,} were trained"
    )


@pytest.mark.slow
def test_adapter_folder_holds_no_path_and_loads_in_peft(trained: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    for file in (trained / "adapter").iterdir():
        assert str(trained).encode() not in file.read_bytes(), file.name
    assert not (trained / "adapter" / "README.md").exists()
    config = json.loads((trained / "adapter" / contract.CONFIG).read_text())
    assert config["base_model_name_or_path"] == "data/base"
    assert config["target_modules"] == sorted(TRAIN["lora"]["target_modules"])
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(trained / "base"), trained / "adapter")
    weights = [value for name, value in model.named_parameters() if "lora_B" in name]
    assert all(float(value.abs().max()) > 0 for value in weights)


@pytest.mark.slow
def test_adapter_is_trained_in_float32_not_rounded_to_bfloat16(trained: Path) -> None:
    import torch
    from safetensors.torch import load_file

    weights = load_file(trained / "adapter" / contract.WEIGHTS)
    assert all(value.dtype == torch.float32 for value in weights.values())
    assert any(not torch.equal(value, value.bfloat16().float()) for value in weights.values())


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "base", "layers"), [("added", "base", 2), ("added_tied", "tied", 1)])
def test_added_tokens_are_trained_and_saved_as_rows(trained: Path, folder: str, base: str, layers: int) -> None:
    import torch
    from safetensors.torch import load_file

    training = json.loads((trained / folder / contract.TRAINING).read_text())
    assert training["trained_rows"] == [384, 385]
    assert training["embedding_rows"] == 386
    weights = load_file(trained / folder / contract.WEIGHTS)
    rows = {name: value for name, value in weights.items() if "trainable_tokens_delta" in name}
    assert len(rows) == layers
    embeddings = load_file(trained / base / "model.safetensors")
    for name, value in rows.items():
        layer = "lm_head.weight" if "lm_head" in name else "model.embed_tokens.weight"
        start = embeddings[layer].float().mean(0)
        assert value.shape == (2, 64)
        # the end of turn is labelled in every answer, so that its row moves far; the other one is never said
        assert float((value[0] - start).abs().max()) > 0.01
        assert torch.isfinite(value).all()


def test_runtime_of_these_tests_is_right() -> None:
    assert section_problems(Runtime, "runtime", RUNTIME) == []


def of_state(found: dict[str, AskedAndRan], state: str) -> dict[str, object]:
    return {key: one["ran"] for key, one in found.items() if one["state"] == state}


@pytest.mark.slow
def test_execution_record_knows_of_each_param_what_ran(trained: Path) -> None:
    found = json.loads((trained / "probe.json").read_text())["ran"]
    assert set(found) == {
        *(f"train.{key}" for key in TRAIN if key != "lora"),
        *(f"train.lora.{key}" for key in TRAIN["lora"]),
        *(f"runtime.{key}" for key in RUNTIME_KEYS),
    }
    assert of_state(found, "unknown") == {}
    # a CPU has no 8-bit kernels
    assert of_state(found, "different") == {"train.optimizer": "adamw_torch_fused"}
    assert "8-bit" in found["train.optimizer"]["why"]
    assert of_state(found, "chosen") == {"train.epochs": 5.333333, "runtime.processes": 1}


@pytest.mark.slow
def test_what_runs_otherwise_than_it_was_asked_is_seen_in_what_ran(trained: Path) -> None:
    found = json.loads((trained / "probe.json").read_text())["planted"]
    assert of_state(found, "different") == {
        "train.learning_rate": 0.02,
        "train.weight_decay": 0.5,
        "train.schedule": "cosine",
        "train.warmup_steps": 1,
        "train.load_in_4bit": False,
        "train.dtype": "bfloat16",
        "train.layout": "flattened",
        "train.conversations_per_step": 4,
        "train.steps": 6,
        "train.eval_steps": 3,
        "train.lora.r": 4,
        "train.lora.use_rslora": False,
        "train.lora.dropout": 0.5,
        "train.optimizer": "adamw_torch_fused",
    }
    assert found["train.learning_rate"]["why"] == "no reason is known"
