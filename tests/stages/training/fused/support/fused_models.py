"""Small models with adapters that do something, and what plain PEFT makes of a batch, to compare the fused forward with."""

from typing import Any

import torch

VOCABULARY = 128
LENGTHS = [17, 5, 30, 1, 9]
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def small_model(
    kind: str = "llama", *, tied: bool = True, dtype: torch.dtype = torch.float64, four: bool = False, **lora: Any
) -> Any:
    """A PEFT model of 3 layers with random weights, biases and norms; `four`: its linear layers in NF4."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": tied,
        "initializer_range": 0.1,
    }
    base = LlamaForCausalLM(LlamaConfig(**shape)) if kind == "llama" else Qwen2ForCausalLM(Qwen2Config(**shape))
    base = base.to(dtype)
    for name, value in base.named_parameters():
        if "bias" in name or "norm" in name:
            value.data += 0.3 * torch.randn_like(value)
    if four:
        quantize(base, dtype)
    options = {"r": 4, "lora_alpha": 8, "target_modules": list(TARGETS), "task_type": "CAUSAL_LM"} | lora
    model = get_peft_model(base, LoraConfig(**options), autocast_adapter_dtype=False)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            value.data = 0.2 * torch.randn_like(value)
    return model.train()


def quantize(base: Any, dtype: torch.dtype) -> None:
    """NF4 with double quantization in place of the decoder's linear layers, as bitsandbytes does it on a CPU."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for layer in base.model.layers:
        for owner in (layer.self_attn, layer.mlp):
            for name in TARGETS:
                if hasattr(owner, name):
                    weight = getattr(owner, name).weight.data
                    four = Linear4bit(*weight.shape[::-1], bias=False, compute_dtype=dtype)
                    four.weight = Params4bit(
                        weight, requires_grad=False, quant_type="nf4", compress_statistics=True
                    ).to("cpu")
                    four.support_avx512bf16_for_cpu = False
                    setattr(owner, name, four)


def batch(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, labels) of the conversations of LENGTHS one after the other."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCABULARY, (sum(LENGTHS),), generator=draw)
    labels = torch.where(torch.rand(len(ids), generator=draw) < 0.4, -100, ids)
    return ids, labels


def plain_loss(model: Any, ids: torch.Tensor, labels: torch.Tensor, items: int) -> torch.Tensor:
    """Each conversation through the model by itself; the sum of the losses over `items`."""
    total = torch.zeros((), dtype=torch.float64)
    for line, wanted in zip(ids.split(LENGTHS), labels.split(LENGTHS), strict=True):
        logits = model(input_ids=line[None]).logits[0].double()
        total = total + torch.nn.functional.cross_entropy(logits[:-1], wanted[1:], ignore_index=-100, reduction="sum")
    return total / items


def gradients(model: Any) -> dict[str, torch.Tensor]:
    """{name: gradient} of what is trained, and set them back."""
    found = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    return found


def furthest(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    """The largest distance of a parameter's gradients, relative to the second's."""
    if one.keys() != two.keys():
        raise AssertionError(one.keys() ^ two.keys())
    return max(float((one[name] - two[name]).norm() / two[name].norm()) for name in two)
