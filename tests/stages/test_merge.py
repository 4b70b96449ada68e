import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from stages.contracts import adapter as adapter_files
from stages.contracts import base as base_files
from stages.contracts import merged as contract
from stages.contracts import tokens as token_files
from stages.core.errors import StageError
from stages.core.files import read_json, sha256_file, write_json
from stages.core.params import Runtime
from stages.merge import MergeParams, check_pair, judge, merge
from stages.merging.agreement import CheckRow, read_check_rows
from stages.merging.config_files import end_ids
from tests.arrow_files import write_arrow
from tests.stages.training.support.tiny import RUNTIME

PARAMS = MergeParams(into="base16", check_rows=6, max_logit_difference=0.2)
CHECKS = contract.MergeChecks(
    into="base16",
    load_in_4bit=False,
    rows=1,
    positions=2,
    max_logit_difference=0.01,
    mean_kl=1e-6,
    top1_agreement=1.0,
    max_change_from_base=3.0,
    losses=contract.Losses(
        base=2.0, adapter_base16=1.0, adapter_4bit=None, merged_base16=1.0, merged_dequantized_nf4=None
    ),
)


def fold(root: Path, base: str, adapter: Path, target: Path, tokens: str = "tokens") -> Path:
    merge(root / base, adapter, root / tokens, target, PARAMS, Runtime.model_validate(RUNTIME))
    return target


def pair(tmp_path: Path) -> tuple[Path, Path]:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    base.mkdir()
    adapter.mkdir()
    for file in (
        base / "model.safetensors",
        base / "config.json",
        adapter / adapter_files.WEIGHTS,
        adapter / adapter_files.CONFIG,
    ):
        file.write_bytes(file.name.encode())
    digests = {name: sha256_file(base / name) for name in ("config.json", "model.safetensors")}
    write_json(adapter / adapter_files.TRAINING, {"base": digests})
    return base, adapter


def test_pair_that_belongs_together_passes(tmp_path: Path) -> None:
    base, adapter = pair(tmp_path)
    assert check_pair(base, adapter) == sha256_file(adapter / adapter_files.WEIGHTS)


def test_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    base, adapter = pair(tmp_path)
    (base / "model.safetensors").write_bytes(b"another revision")
    with pytest.raises(StageError, match=r"another base.*model\.safetensors differ"):
        check_pair(base, adapter)


@pytest.mark.parametrize("name", [adapter_files.WEIGHTS, adapter_files.CONFIG, adapter_files.TRAINING])
def test_adapter_that_is_not_whole_is_refused(tmp_path: Path, name: str) -> None:
    base, adapter = pair(tmp_path)
    (adapter / name).unlink()
    with pytest.raises(StageError, match=name):
        check_pair(base, adapter)


def test_end_ids_come_once_each_the_end_of_turn_first() -> None:
    assert end_ids(9, [1, 9, 8], 8) == [9, 1, 8]
    assert end_ids(None, None, 2) == [2]
    assert end_ids(None, None, None) == []


def test_check_rows_are_the_first_with_labels_up_to_the_last_position_compared(tmp_path: Path) -> None:
    none, few = ([1, 2, 3], [-100, -100, -100]), ([7, 8, 9, 10, 11], [7, -100, 9, 10, -100])
    many = (list(range(400)), [-100] * 100 + list(range(100, 400)))
    columns = [["a", "b", "c", "d"], *([row[part] for row in (none, few, many, few)] for part in (0, 1))]
    write_arrow(tmp_path / token_files.TRAIN, pa.table(columns, schema=token_files.SCHEMA))
    write_arrow(tmp_path / token_files.HELDOUT, token_files.SCHEMA.empty_table())
    short, long = read_check_rows(tmp_path, 3)
    # nothing comes before the first token, so nothing predicts it
    assert short == CheckRow([7, 8, 9], [1, 2], [9, 10])
    assert long == CheckRow(list(range(227)), list(range(99, 227)), list(range(100, 228)))
    with pytest.raises(StageError, match="none of the first 1 rows"):
        read_check_rows(tmp_path, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_logit_difference": 0.3}, "differ by 0.3"),
        ({"max_logit_difference": float("nan")}, "differ by nan"),
        ({"max_change_from_base": 0.0}, "exactly as the base"),
    ],
)
def test_merged_model_that_is_another_is_refused(change: dict[str, Any], said: str) -> None:
    judge(CHECKS, PARAMS)
    with pytest.raises(StageError, match=said):
        judge({**CHECKS, **change}, PARAMS)  # type: ignore[typeddict-item]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "adapter", "tokens"),
    [("base", "adapter", "tokens"), ("base", "added", "tokens_added"), ("tied", "added_tied", "tokens_added")],
)
def test_merged_weights_equal_pefts_own_merge(
    trained: Path, tmp_path: Path, base: str, adapter: str, tokens: str
) -> None:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    # a base in fp32, so that rounding hides nothing
    precise = tmp_path / "root" / base
    AutoModelForCausalLM.from_pretrained(trained / base, dtype=torch.float32).save_pretrained(precise)
    own = shutil.copytree(trained / adapter, tmp_path / "adapter")
    training = read_json(own / adapter_files.TRAINING)
    training["base"] = {name: sha256_file(precise / name) for name in ("config.json", "model.safetensors")}
    write_json(own / adapter_files.TRAINING, training)
    shutil.copytree(trained / tokens, tmp_path / "root" / tokens)
    merged = fold(tmp_path / "root", base, own, tmp_path / "merged", tokens)

    plain = AutoModelForCausalLM.from_pretrained(precise, dtype=torch.float32)
    plain.resize_token_embeddings(training["embedding_rows"], mean_resizing=False)
    reference = PeftModel.from_pretrained(plain, own).merge_and_unload()
    reloaded = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    ours = reloaded.state_dict()
    for name, wanted in reference.state_dict().items():
        assert ours[name].shape == wanted.shape
        assert float((ours[name] - wanted).abs().max()) < 1e-5, name
    ids = torch.tensor([[0, 2, 40, 3, 41, training["embedding_rows"] - 1, 7]])
    with torch.no_grad():
        assert float((reloaded(ids).logits - reference(ids).logits).abs().max()) < 1e-4
    assert reloaded.config.vocab_size == training["embedding_rows"]
    assert load_file(merged / "model.safetensors").keys() == load_file(precise / "model.safetensors").keys()
    assert read_json(merged / contract.CHECKS)["max_logit_difference"] < 1e-4


@pytest.mark.slow
def test_merged_folder_keeps_dtype_and_tokenizer_and_is_the_same_bytes_twice(trained: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    one = fold(trained, "base", trained / "added", tmp_path / "one", "tokens_added")
    other = fold(trained, "base", trained / "added", tmp_path / "other", "tokens_added")
    for file in one.iterdir():
        assert file.read_bytes() == (other / file.name).read_bytes(), file.name
        assert str(tmp_path).encode() not in file.read_bytes()
    assert {value.dtype for value in load_file(one / "model.safetensors").values()} == {torch.bfloat16}
    config, generation = read_json(one / "config.json"), read_json(one / "generation_config.json")
    assert config["dtype"] == "bfloat16"
    assert config["vocab_size"] == 386
    # the template's end of turn, and the base's own
    assert generation["eos_token_id"] == [384, 1]
    assert generation["pad_token_id"] == 4
    for file in (trained / "tokens_added" / "tokenizer").iterdir():
        assert (one / file.name).read_bytes() == file.read_bytes()
    assert AutoTokenizer.from_pretrained(one).convert_tokens_to_ids("<|im_end|>") == 384


@pytest.mark.slow
def test_shards_are_merged_one_by_one_and_the_index_stays(trained: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    sharded = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(trained / "base", dtype="auto").save_pretrained(sharded, max_shard_size="60KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    own = shutil.copytree(trained / "adapter", tmp_path / "adapter")
    training = read_json(own / adapter_files.TRAINING)
    names = ["config.json", *(file.name for file in sharded.glob("*.safetensors"))]
    training["base"] = {name: sha256_file(sharded / name) for name in names}
    write_json(own / adapter_files.TRAINING, training)
    shutil.copytree(trained / "tokens", tmp_path / "tokens")
    merged = fold(tmp_path, "base", own, tmp_path / "merged")
    index = read_json(merged / "model.safetensors.index.json")
    assert index["weight_map"] == read_json(sharded / "model.safetensors.index.json")["weight_map"]
    whole = load_file(fold(trained, "base", trained / "adapter", tmp_path / "whole") / "model.safetensors")
    for name, file in index["weight_map"].items():
        assert (load_file(merged / file)[name] == whole[name]).all(), name


@pytest.mark.slow
def test_merging_onto_a_merged_folder_is_refused(trained: Path, tmp_path: Path) -> None:
    fold(trained, "base", trained / "adapter", tmp_path / "merged")
    shutil.copytree(trained / "tokens", tmp_path / "tokens")
    with pytest.raises(StageError, match="already merged"):
        fold(tmp_path, "merged", trained / "adapter", tmp_path / "twice")
    (tmp_path / "merged" / base_files.MERGED_MARKER).unlink()
    with pytest.raises(StageError, match="another base"):
        fold(tmp_path, "merged", trained / "adapter", tmp_path / "twice")


def changed(trained: Path, tmp_path: Path, change: Any) -> Path:
    """A copy of the adapter whose tensors `change` has altered."""
    from safetensors.torch import load_file, save_file

    own = shutil.copytree(trained / "adapter", tmp_path / "adapter")
    tensors = load_file(own / adapter_files.WEIGHTS)
    change(tensors, next(name for name in tensors if "q_proj.lora_B" in name))
    save_file(tensors, own / adapter_files.WEIGHTS, metadata={"format": "pt"})
    return own


def set_nan(tensors: Any, name: str) -> None:
    tensors[name][0, 0] = float("nan")


def cut_short(tensors: Any, name: str) -> None:
    tensors[name] = tensors[name][:-1].clone()


def drop(tensors: Any, name: str) -> None:
    del tensors[name]


def rename(tensors: Any, name: str) -> None:
    for part in ("A", "B"):
        old = name.replace("lora_B", f"lora_{part}")
        tensors[old.replace("layers.0", "layers.7").replace("layers.1", "layers.8")] = tensors.pop(old)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_nan, "NaN or infinity"),
        (cut_short, "another model's adapter"),
        (drop, "missing"),
        (rename, "no such tensor"),
    ],
)
def test_adapter_that_does_not_fit_is_refused(trained: Path, tmp_path: Path, change: Any, said: str) -> None:
    with pytest.raises(StageError, match=said):
        fold(trained, "base", changed(trained, tmp_path, change), tmp_path / "merged")


@pytest.mark.slow
def test_truncated_adapter_is_refused(trained: Path, tmp_path: Path) -> None:
    own = shutil.copytree(trained / "adapter", tmp_path / "adapter")
    (own / adapter_files.WEIGHTS).write_bytes((own / adapter_files.WEIGHTS).read_bytes()[:-100])
    with pytest.raises(StageError, match=adapter_files.WEIGHTS):
        fold(trained, "base", own, tmp_path / "merged")


@pytest.mark.slow
def test_disk_without_room_is_refused_before_anything_is_written(tiny_base: Path, tmp_path: Path) -> None:
    from stages.merge import check_room

    huge = tmp_path / "model.safetensors"
    with huge.open("wb") as file:
        file.truncate(shutil.disk_usage(tmp_path).free + 2**40)
    with pytest.raises(StageError, match=r"GiB free"):
        check_room([huge], tmp_path)
    check_room([tiny_base / "base" / "model.safetensors"], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "altered_in", ["model.layers.1.mlp.down_proj.weight", "model.layers.0.self_attn.q_proj.weight"]
)
def test_one_altered_tensor_fails_the_check(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, altered_in: str
) -> None:
    from stages import merge as module

    real = module.fold

    def altered(name: str, weight: Any, first: int, update: Any) -> Any:
        return real(name, weight, first, update) * (1.5 if name == altered_in else 1)

    monkeypatch.setattr(module, "fold", altered)
    with pytest.raises(StageError, match=r"merge\.max_logit_difference"):
        fold(trained, "base", trained / "adapter", tmp_path / "merged")


@pytest.mark.slow
def test_trained_adapter_loads_with_peft_and_lowers_the_heldout_loss(trained: Path, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(trained / "base", dtype=torch.float32)
    tuned = PeftModel.from_pretrained(plain, trained / "adapter").eval()
    assert tuned.peft_config["default"].base_model_name_or_path == "data/base"
    assert sum("lora_B" in name and bool(value.any()) for name, value in tuned.named_parameters()) == 14
    losses = read_json(fold(trained, "base", trained / "adapter", tmp_path / "merged") / contract.CHECKS)["losses"]
    assert losses["adapter_4bit"] < losses["base"] - 0.5
    assert losses["merged_base16"] < losses["base"] - 0.5
