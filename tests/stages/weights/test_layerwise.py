from pathlib import Path
from typing import Any

import pytest

from tests.stages.weights.support.handmade import KINDS, make_adapter

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {
    "vocab_size": 384, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "head_dim": 16, "initializer_range": 0.1, "pad_token_id": 0,
    "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
LLAMA_3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "llama, padding beyond the ids of the rows": ("llama", {"pad_token_id": 383}),
    "llama 3 rotary": ("llama", {"rope_parameters": LLAMA_3}),
    "qwen2, biases": ("qwen2", {}),
    "qwen2, a window in the upper layers": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    ),
    "qwen3, norms of queries and keys": ("qwen3", {}),
    "gemma, scaled embedding": ("gemma", {}),
    "gemma2, softcapped, windows": ("gemma2", {"sliding_window": 8, "query_pre_attn_scalar": 16}),
    "gemma3, two rotaries": ("gemma3_text", {"sliding_window": 8}),
    "mistral, window": ("mistral", {"sliding_window": 8}),
    "phi3, joined projections": ("phi3", {}),
    "granite, scaled logits": ("granite", {"logits_scaling": 4.0, "embedding_multiplier": 3.0}),
}


def save_model(folder: Path, kind: str, **settings: Any) -> Any:
    """A random model with every weight different from its initial value, saved and loaded again in fp32."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SMALL, **settings}), dtype=torch.float32)
    for value in model.parameters():
        if value.ndim == 1:
            value.data += 0.1 * torch.randn_like(value)
    model.save_pretrained(folder, max_shard_size="100KB")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def rows() -> list[tuple[list[int], list[int]]]:
    import torch

    torch.manual_seed(4)
    return [(torch.randint(0, 384, (count,)).tolist(), [0, 3, count - 1]) for count in (33, 9, 20)]


def whole(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return torch.cat([model(torch.tensor([ids])).logits[0, places] for ids, places in rows()])


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_layer_by_layer_equal_those_of_the_whole_model(tmp_path: Path, shape: str) -> None:
    import torch

    from stages.weights.layerwise import run_layers
    from stages.weights.meta_model import build_meta_model, check_names
    from stages.weights.shards import read_headers
    from stages.weights.variants import Variant

    kind, settings = SHAPES[shape]
    model = save_model(tmp_path, kind, **settings)
    meta_model, tensors = build_meta_model(tmp_path), read_headers(sorted(tmp_path.glob("*.safetensors")))
    check_names(meta_model, tensors)
    found = run_layers(meta_model, Variant(tensors), rows(), "cpu")
    ours = torch.cat([found.logits(0, 100), found.logits(100, 384)], 1)
    assert float((ours - whole(model)).abs().max()) < 1e-5
    assert all(value.is_meta for layer in meta_model.layers.values() for value in layer.parameters())


@pytest.mark.parametrize(
    ("shape", "kind"), [("llama tied", "lora"), ("qwen2, biases", "dora"), ("gemma, scaled embedding", "rslora")]
)
def test_logits_of_base_and_adapter_equal_pefts(tmp_path: Path, tiny_base: Path, shape: str, kind: str) -> None:
    import torch
    from peft import PeftModel

    from stages.contracts.adapter import WEIGHTS
    from stages.models.safetensors_header import read_header
    from stages.weights.folding import read_update
    from stages.weights.layerwise import run_layers
    from stages.weights.meta_model import build_meta_model
    from stages.weights.shards import read_headers
    from stages.weights.variants import Variant

    name, settings = SHAPES[shape]
    model = save_model(tmp_path / "base", name, **settings)
    adapter = make_adapter(tmp_path / "base", tiny_base / "tokens", tmp_path / "adapter", **KINDS[kind])
    plain = Variant(read_headers(sorted((tmp_path / "base").glob("*.safetensors"))))
    beside = plain.with_adapter(read_update(adapter, 384), read_header(adapter / WEIGHTS))
    found = run_layers(build_meta_model(tmp_path / "base", adapter), beside, rows(), "cpu")
    wanted = whole(PeftModel.from_pretrained(model, adapter).eval())
    assert float((found.logits(0, 384) - wanted).abs().max()) < 1e-5
    with torch.no_grad():
        base = run_layers(build_meta_model(tmp_path / "base"), plain, rows(), "cpu").logits(0, 384)
    assert float((base - wanted).abs().max()) > 0.1


def test_architecture_whose_files_have_other_names_is_unfit(tmp_path: Path) -> None:
    from stages.weights.meta_model import Unfit, build_meta_model, check_names
    from stages.weights.shards import read_headers

    save_model(tmp_path, "mixtral", num_local_experts=3)
    with pytest.raises(Unfit, match="do not hold"):
        check_names(build_meta_model(tmp_path), read_headers(sorted(tmp_path.glob("*.safetensors"))))


def test_model_that_works_between_its_layers_is_unfit(tmp_path: Path) -> None:
    from stages.weights.layerwise import run_layers
    from stages.weights.meta_model import Unfit, build_meta_model
    from stages.weights.shards import read_headers
    from stages.weights.variants import Variant

    save_model(tmp_path, "llama")
    meta_model = build_meta_model(tmp_path)
    # what an architecture with a residual around two layers does
    second = list(meta_model.layers.values())[1]
    second.register_forward_pre_hook(lambda _, given: (given[0] * 2, *given[1:]))
    with pytest.raises(Unfit, match="between its decoder layers"):
        run_layers(meta_model, Variant(read_headers(sorted(tmp_path.glob("*.safetensors")))), rows(), "cpu")
