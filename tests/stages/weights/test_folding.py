"""PEFT's own tests of merging, held against our merge: adapters of every kind that folds, on the 16-bit and on the dequantized base."""

import json
from pathlib import Path
from typing import Any

import pytest

from stages.contracts import adapter as adapter_files
from stages.contracts import merged as contract
from stages.core.errors import StageError
from stages.core.files import read_json, write_json
from stages.core.params import Runtime
from stages.merge import MergeParams, merge
from tests.stages.training.support.tiny import ADDED, RUNTIME, make_tokenizer, make_tokens
from tests.stages.weights.support.handmade import KINDS, make_adapter, precise
from tests.stages.weights.test_layerwise import save_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, `tied` in fp32, `tokens`, and `tokens_added` with two tokens more."""
    root = tmp_path_factory.mktemp("folding")
    for name in ("base", "tied"):
        precise(tiny_base / name, root / name)
    (root / "tokens").symlink_to(tiny_base / "tokens")
    make_tokenizer(root / "tokens_added" / "tokenizer", ADDED)
    make_tokens(root / "tokens_added", ADDED)
    return root


def fold(world: Path, base: str, adapter: Path, target: Path, tokens: str = "tokens", into: str = "base16") -> Path:
    params = MergeParams.model_validate({"into": into, "check_rows": 3, "max_logit_difference": 1e-4})
    merge(world / base, adapter, world / tokens, target, params, Runtime.model_validate(RUNTIME))
    return target


def reference(base: Path, adapter: Path, into: str) -> Any:
    """Base + adapter through PEFT; the base dequantized from the NF4 layers of transformers where `into` asks for it."""
    import torch
    from peft import PeftModel
    from peft.utils.integrations import dequantize_module_weight
    from transformers import AutoModelForCausalLM

    from stages.models.base_model import load_base

    training = read_json(adapter / adapter_files.TRAINING)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if into == "dequantized_nf4":
        packed = load_base(base, load_in_4bit=True, dtype=training["dtype"], place="cpu", rows=plain.config.vocab_size)
        ours = dict(plain.named_modules())
        for name, module in packed.named_modules():
            if type(module).__name__ == "Linear4bit":
                ours[name].weight.data = dequantize_module_weight(module).float()
    plain.resize_token_embeddings(training["embedding_rows"], mean_resizing=False)
    return PeftModel.from_pretrained(plain, adapter).eval()


@pytest.mark.parametrize("into", ["base16", "dequantized_nf4"])
@pytest.mark.parametrize(
    ("kind", "base", "tokens"),
    [(kind, "base", "tokens") for kind in KINDS]
    + [("lora", "tied", "tokens"), ("lora", "base", "tokens_added"), ("dora", "tied", "tokens_added")],
)
def test_merged_unloaded_and_reloaded_logits_equal_the_adapters(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, base: str, tokens: str, into: str
) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    # ten rows of the smallest matrices at once, so that blocks have to meet
    monkeypatch.setattr("stages.merge.BLOCK_VALUES", 640)
    monkeypatch.setattr("stages.merging.agreement.VALUES", 6400)
    adapter = make_adapter(world / base, world / tokens, tmp_path / "adapter", load_in_4bit=True, **KINDS[kind])
    merged = fold(world, base, adapter, tmp_path / "merged", tokens, into)
    tuned = reference(world / base, adapter, into)
    reloaded = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    ids = torch.tensor([[0, 2, 40, 3, 41, reloaded.config.vocab_size - 1, 7]])
    with torch.no_grad():
        adapted = tuned(ids).logits
        with tuned.disable_adapter():
            plain = tuned(ids).logits
        unloaded = tuned.merge_and_unload()(ids).logits
        ours = reloaded(ids).logits
    assert float((ours - adapted).abs().max()) < 1e-4
    assert float((ours - unloaded).abs().max()) < 1e-4
    assert float((ours - plain).abs().max()) > 0.1
    before = load_file(world / base / "model.safetensors")
    assert load_file(merged / "model.safetensors").keys() == before.keys()
    checks = read_json(merged / contract.CHECKS)
    assert checks["max_logit_difference"] < 1e-4
    losses = checks["losses"]
    # merged into the dequantized base, a model is the function that was trained; merged into 16 bit it is another
    assert losses["merged_dequantized_nf4"] == pytest.approx(losses["adapter_4bit"], abs=1e-5)
    assert abs(losses["merged_base16"] - losses["adapter_4bit"]) > 1e-4
    assert checks["load_in_4bit"]
    if into == "base16":
        assert losses["merged_base16"] == pytest.approx(losses["adapter_base16"], abs=1e-5)
    else:
        assert losses["adapter_base16"] is None


def test_losses_are_those_of_whole_models(world: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from stages.merging.agreement import read_check_rows

    adapter = make_adapter(world / "base", world / "tokens", tmp_path / "adapter", load_in_4bit=True)
    losses = read_json(fold(world, "base", adapter, tmp_path / "merged") / contract.CHECKS)["losses"]
    rows = read_check_rows(world / "tokens", 3)
    models = {
        "base": AutoModelForCausalLM.from_pretrained(world / "base", dtype=torch.float32),
        "merged_base16": AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32),
        "adapter_4bit": reference(world / "base", adapter, "dequantized_nf4"),
    }
    for name, model in models.items():
        found = []
        for row in rows:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([row.ids])).logits[0, row.positions]
            found += torch.nn.functional.cross_entropy(logits, torch.tensor(row.targets), reduction="none").tolist()
        assert losses[name] == pytest.approx(sum(found) / len(found), abs=1e-5), name


def test_loss_of_the_merge_that_was_not_written_is_that_of_writing_it(tiny_base: Path, tmp_path: Path) -> None:
    # a base in bf16, whose rounding is part of the loss
    bf16 = {"load_in_4bit": True, "dtype": "bfloat16"}
    adapter = make_adapter(tiny_base / "base", tiny_base / "tokens", tmp_path / "adapter", **bf16)
    losses = {}
    for into in ("base16", "dequantized_nf4"):
        params = MergeParams.model_validate({"into": into, "check_rows": 3, "max_logit_difference": 0.3})
        runtime = Runtime.model_validate(RUNTIME)
        merge(tiny_base / "base", adapter, tiny_base / "tokens", tmp_path / into, params, runtime)
        losses[into] = read_json(tmp_path / into / contract.CHECKS)["losses"]
    for name in ("base", "adapter_4bit", "merged_base16", "merged_dequantized_nf4"):
        assert losses["dequantized_nf4"][name] == losses["base16"][name], name
    assert losses["base16"]["merged_base16"] != losses["base16"]["merged_dequantized_nf4"]


def test_adapter_of_a_16_bit_base_has_no_losses_in_nf4(world: Path, tmp_path: Path) -> None:
    adapter = make_adapter(world / "base", world / "tokens", tmp_path / "adapter", load_in_4bit=False)
    checks = read_json(fold(world, "base", adapter, tmp_path / "merged") / contract.CHECKS)
    assert not checks["load_in_4bit"]
    losses = checks["losses"]
    assert (losses["adapter_4bit"], losses["merged_dequantized_nf4"]) == (None, None)
    assert losses["merged_base16"] == pytest.approx(losses["adapter_base16"], abs=1e-5)


def test_merging_into_nf4_is_refused_for_an_adapter_of_a_16_bit_base(world: Path, tmp_path: Path) -> None:
    adapter = make_adapter(world / "base", world / "tokens", tmp_path / "adapter", load_in_4bit=False)
    with pytest.raises(StageError, match=r"load_in_4bit: false.*base16"):
        fold(world, "base", adapter, tmp_path / "merged", into="dequantized_nf4")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"use_dora": True}, "DoRA"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base too"),
        ({"alora_invocation_tokens": [3]}, "alora_invocation_tokens"),
    ],
)
def test_adapter_that_does_more_than_is_folded_is_refused(
    world: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    adapter = make_adapter(world / "base", world / "tokens", tmp_path / "adapter")
    config = json.loads((adapter / adapter_files.CONFIG).read_text())
    write_json(adapter / adapter_files.CONFIG, {**config, **change})
    with pytest.raises(StageError, match=said):
        fold(world, "base", adapter, tmp_path / "merged")


def test_quantized_base_is_refused(world: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    from stages.models.safetensors_header import read_header
    from stages.weights.folding import check_shapes, read_update

    adapter = make_adapter(world / "base", world / "tokens", tmp_path / "adapter")
    weights = load_file(world / "base" / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    save_file({**weights, name: weights[name].to(torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    with pytest.raises(StageError, match=r"q_proj\.weight is quantized"):
        check_shapes(read_update(adapter, 384), read_header(tmp_path / "model.safetensors"))


def test_head_that_a_tied_base_holds_twice_changes_with_the_embedding(world: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    tied = precise(world / "tied", tmp_path / "tied")
    weights = load_file(tied / "model.safetensors")
    both = {**weights, "lm_head.weight": weights["model.embed_tokens.weight"].clone()}
    save_file(both, tied / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "tokens_added").symlink_to(world / "tokens_added")
    adapter = make_adapter(tied, world / "tokens_added", tmp_path / "adapter")
    merged = fold(tmp_path, "tied", adapter, tmp_path / "merged", "tokens_added")
    after = load_file(merged / "model.safetensors")
    assert torch.equal(after["lm_head.weight"], after["model.embed_tokens.weight"])
    assert after["lm_head.weight"].shape[0] == AutoModelForCausalLM.from_pretrained(merged).config.vocab_size == 386


@pytest.mark.parametrize("altered", [False, True])
def test_architecture_that_does_not_run_by_layers_is_checked_whole(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, altered: bool
) -> None:
    from stages import merge as module

    # its files have each expert's weights apart, and the modules of transformers have them joined
    save_model(tmp_path / "base", "mixtral", num_local_experts=3)
    (tmp_path / "tokens").symlink_to(world / "tokens")
    attention = {"target_modules": ["q_proj", "v_proj"], "load_in_4bit": True}
    adapter = make_adapter(tmp_path / "base", tmp_path / "tokens", tmp_path / "adapter", **attention)
    real = module.fold
    if altered:
        monkeypatch.setattr(module, "fold", lambda *given: real(*given) * 1.5)
        with pytest.raises(StageError, match=r"merge\.max_logit_difference"):
            fold(tmp_path, "base", adapter, tmp_path / "merged")
        return
    with caplog.at_level("INFO", logger="retune"):
        merged = fold(tmp_path, "base", adapter, tmp_path / "merged")
    assert "checked whole, since its files do not hold" in caplog.text
    checks = read_json(merged / contract.CHECKS)
    assert checks["max_logit_difference"] < 1e-4 < checks["max_change_from_base"]
    assert checks["losses"]["adapter_4bit"] is None
    with pytest.raises(StageError, match="use base16"):
        fold(tmp_path, "base", adapter, tmp_path / "nf4", into="dequantized_nf4")
