"""The models of `train_rows`: from a folder through Unsloth or plain transformers, or of the 8B shape made on the GPU."""

import math
from typing import Any

from tests.bench.train_data import Row

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def wait() -> None:
    """Until the GPU has done what it was told."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def load(row: Row, folder: str) -> Any:
    """A model with an adapter on it: through Unsloth from a folder, or of the 8B shape with random weights."""
    if row.shape == "8b":
        return random_8b(four=row.four)
    from unsloth import FastLanguageModel

    model, _ = FastLanguageModel.from_pretrained(folder, max_seq_length=row.length, dtype=None, load_in_4bit=row.four)
    checkpointing = "unsloth" if row.backend == "recipe" else False
    model = FastLanguageModel.get_peft_model(
        model,
        r=16,
        target_modules=list(TARGETS),
        lora_alpha=16,
        lora_dropout=0,
        bias="none",
        use_gradient_checkpointing=checkpointing,
        random_state=3407,
    )
    wait()
    return model


def first_values(model: Any) -> None:
    """Give the adapter the values that every row begins with, whatever was trained before and whoever made it: A as PEFT draws it, B zero."""
    import torch

    draw = torch.Generator().manual_seed(3407)
    adapter = {name: value for name, value in model.named_parameters() if value.requires_grad}
    with torch.no_grad():
        for name, value in sorted(adapter.items()):
            value.grad = None
            if "lora_A" in name:
                value.copy_((torch.rand(value.shape, generator=draw) * 2 - 1) / math.sqrt(value.shape[1]))
            else:
                value.zero_()


def shape_8b(layers: int = 32) -> Any:
    """The configuration of the Llama-3-8B shape."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        rope_theta=500000.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
    )


def random_8b(*, four: bool) -> Any:
    """A Llama-3-8B-shaped model made on the GPU."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    config = shape_8b()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config)
    if four:
        quantize(model)
    torch.set_default_dtype(torch.float32)
    return get_peft_model(model, LoraConfig(r=16, lora_alpha=16, target_modules=list(TARGETS), task_type="CAUSAL_LM"))


def quantize(model: Any) -> None:
    """Put NF4 layers in place of the linear layers of the decoder."""
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit

    for layer in model.model.layers:
        for owner in (layer.self_attn, layer.mlp):
            for name in (name for name in TARGETS if hasattr(owner, name)):
                weight = getattr(owner, name).weight.data
                four = Linear4bit(*weight.shape[::-1], bias=False, compute_dtype=torch.bfloat16, device="meta")
                four.weight = Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True).to(
                    "cuda"
                )
                setattr(owner, name, four)


def plain_model(folder: str) -> tuple[Any, Any]:
    """(model, tokenizer) through transformers, peft and bitsandbytes alone."""
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    place = {"": 0 if torch.cuda.is_available() else "cpu"}
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=quantization, dtype=torch.bfloat16, device_map=place, attn_implementation="sdpa"
    )
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=True)
    adapter = LoraConfig(r=16, lora_alpha=16, lora_dropout=0, bias="none", target_modules=list(TARGETS), task_type="CAUSAL_LM")  # fmt: skip
    return get_peft_model(model, adapter), AutoTokenizer.from_pretrained(folder)


def old_torch_attention() -> None:
    """Put torch 2.11's attention for sequences of different lengths where Unsloth looks for a newer torch's."""
    from torch.nn.attention.varlen import varlen_attn
    from unsloth.utils import attention_dispatch

    def repeated(q: Any, k: Any, v: Any, *rest: Any, enable_gqa: bool = False, **named: Any) -> Any:
        if enable_gqa:
            times = q.shape[1] // k.shape[1]
            k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
        return varlen_attn(q, k, v, *rest, **named)

    attention_dispatch._TORCH_VARLEN_ATTN = repeated
