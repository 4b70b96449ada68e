import json
import math
from pathlib import Path

import pyarrow as pa
import pytest

from stages.contracts import adapter as contract
from stages.contracts.tokens import SCHEMA, read_tokens
from stages.errors import StageError
from stages.params import Runtime, section_problems
from stages.tables import read_parquet
from stages.train import TrainParams, base_name, check_rows, labelled_tokens, ledger, micro_batch
from stages.watched_trainer import Watch, check_gradients, name_rows
from tests.stages.tiny import RUNTIME, TRAIN

CONFIG: dict[str, object] = {"max_position_embeddings": 8}


def rows(*labels: list[int], ids: list[list[int]] | None = None) -> pa.Table:
    ids = ids or [[abs(label) % 10 for label in row] for row in labels]
    return pa.table([[f"row{number}" for number in range(len(labels))], ids, list(labels)], schema=SCHEMA)


@pytest.mark.parametrize(("steps", "epochs"), [(None, None), (3, 1.0)])
def test_params_with_both_or_neither_length_are_refused(steps: int | None, epochs: float | None) -> None:
    assert section_problems(TrainParams, "train", {**TRAIN, "steps": steps, "epochs": epochs})


def test_params_without_a_key_are_refused() -> None:
    assert section_problems(TrainParams, "train", {**TRAIN}) == []
    for key in TRAIN:
        assert section_problems(TrainParams, "train", {name: TRAIN[name] for name in TRAIN if name != key}), key


def test_labelled_tokens_over_several_batches_counts_each_row() -> None:
    one, two = rows([-100, 5, 6], [-100], [7]), rows([1, -100, 2, 3])
    assert labelled_tokens(pa.concat_tables([one, two])).to_pylist() == [2, 0, 1, 3]
    assert labelled_tokens(rows([1, 1], [-100, 1], [1]).slice(1)).to_pylist() == [1, 1]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (rows(), "no training rows"),
        (rows([-100, 3], [-100, -100]), "row row1 of data/tokens have no labelled token"),
        (rows([1] * 9, [1]), "row row0 of data/tokens are longer than the 8"),
        (rows([1, 2], ids=[[1, 64]]), "token id 64"),
        (rows([1, 2], ids=[[1]]), "fewer or more labels"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused_by_id(table: pa.Table, said: str) -> None:
    with pytest.raises(StageError, match=said):
        check_rows(table, CONFIG, 64)


def test_rows_that_fit_pass() -> None:
    check_rows(rows([-100, 3], [1] * 8), CONFIG, 64)


@pytest.mark.parametrize(("step", "wanted", "size"), [(8, 2, 2), (8, 3, 2), (8, 64, 8), (7, 3, 1), (6, 5, 3)])
def test_micro_batch_always_divides_the_step(step: int, wanted: int, size: int) -> None:
    assert micro_batch(step, wanted) == size


def test_ledger_names_every_step_of_a_row_and_rows_never_reached() -> None:
    table = ledger(rows([1, 2], [-100, 3], [4]), [[0, 1], [1]])
    assert table.schema == contract.LEDGER_SCHEMA
    assert table["labelled_tokens"].to_pylist() == [2, 1, 1]
    assert table["steps"].to_pylist() == [[1], [1, 2], []]


def test_names_of_many_rows_are_cut() -> None:
    assert name_rows([str(number) for number in range(10)]) == "rows 0, 1, 2, 3, 4, 5, 6, 7 and 2 more"


@pytest.mark.parametrize(
    ("loss", "norm", "labelled", "said"),
    [
        (1.0, 0.0, 3, "learned nothing"),
        (1.0, 1.0, 0, "learned nothing"),
        (math.nan, 1.0, 3, "loss is nan"),
        (1.0, math.inf, 3, "norm inf"),
    ],
)
def test_step_that_cannot_be_right_stops_with_its_rows(loss: float, norm: float, labelled: int, said: str) -> None:
    watch = Watch(["first", "second", "third"], logging_steps=1, eval_steps=None, eval_rows=1)
    watch.micro_batch([2], labelled, 9)
    watch.micro_batch([0], 0, 9)
    with pytest.raises(StageError, match=f"step 5.*{said}.*") as error:
        watch.end_step(5, 9, 0.5, {"loss": loss, "grad_norm": norm, "learning_rate": 0.1})
    assert "rows third, first" in str(error.value)
    assert watch.rows_of_step == []


def test_step_log_has_a_line_for_every_interval_measure_and_the_last_step() -> None:
    watch = Watch(["first"], logging_steps=4, eval_steps=3, eval_rows=1)
    for step in range(1, 8):
        watch.micro_batch([0], 2, 5)
        watch.end_step(step, 7, step / 7, {"loss": float(step), "grad_norm": 1.0, "learning_rate": 0.1})
        if step % 3 == 0:
            watch.heldout(step / 10)
    assert [(line["step"], line["loss"], line["tokens"], line["eval_loss"]) for line in watch.lines] == [
        (3, 2.0, 6, 0.3),
        (4, 4.0, 8, None),
        (6, 5.5, 12, 0.6),
        (7, 7.0, 14, None),
    ]
    assert watch.tokens_seen == 35


@pytest.mark.slow
def test_part_of_the_adapter_without_gradient_stops_the_training() -> None:
    import torch

    model = torch.nn.ModuleDict({"lora_A": torch.nn.Linear(2, 2), "other": torch.nn.Linear(2, 2)})
    with pytest.raises(StageError, match=r"2 parts of the adapter are not trained, lora_A\.weight"):
        check_gradients(model)
    model["lora_A"](torch.ones(2)).sum().backward()
    check_gradients(model)


def test_base_name_is_the_hubs_or_the_pipelines_folder_never_a_path(tmp_path: Path) -> None:
    assert base_name(tmp_path) == ("data/base", None)
    (tmp_path / "source.json").write_text(json.dumps({"source": "custom", "revision": None, "files": {}}))
    assert base_name(tmp_path) == ("data/base", None)
    (tmp_path / "source.json").write_text(json.dumps({"source": "org/name", "revision": "a" * 40, "files": {}}))
    assert base_name(tmp_path) == ("org/name", "a" * 40)


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
def test_micro_batch_of_a_whole_step_gives_the_same_updates(trained: Path) -> None:
    from safetensors.numpy import load_file

    for one, other in zip(steps_of(trained / "adapter"), steps_of(trained / "whole_step"), strict=True):
        assert math.isclose(one["loss"], other["loss"], rel_tol=1e-5)
        assert math.isclose(one["grad_norm"], other["grad_norm"], rel_tol=1e-3)
    left, right = (load_file(trained / name / contract.WEIGHTS) for name in ("adapter", "whole_step"))
    for name in left:
        assert abs(left[name] - right[name]).max() < 1e-3, name


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
