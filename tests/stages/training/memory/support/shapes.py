"""Bases of real sizes without their weights: config and tensor shapes, and a folder whose weight file has a header and a hole."""

import json
import math
from pathlib import Path
from typing import Any

CONFIGS: dict[str, dict[str, Any]] = {
    "3b": {
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "tie_word_embeddings": True,
    },
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "tie_word_embeddings": False,
    },
}
"""Of Llama 3.2 3B and Llama 3 8B."""


def config_of(name: str) -> dict[str, Any]:
    rest = {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256, "hidden_act": "silu"}
    return {"model_type": "llama", **rest, "rope_scaling": {"rope_type": "llama3"}, **CONFIGS[name]}


def tensors_of(name: str) -> dict[str, tuple[int, ...]]:
    config = config_of(name)
    hidden, mlp, rows = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    queries, keys = config["num_attention_heads"] * 128, 8 * 128
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (rows, hidden), "model.norm.weight": (hidden,)}
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (rows, hidden)
    for layer in range(config["num_hidden_layers"]):
        for part, shape in {
            "self_attn.q_proj": (queries, hidden),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, queries),
            "mlp.gate_proj": (mlp, hidden),
            "mlp.up_proj": (mlp, hidden),
            "mlp.down_proj": (hidden, mlp),
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
        }.items():
            found[f"model.layers.{layer}.{part}.weight"] = shape
    return found


def write_base(folder: Path, name: str) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_of(name)))
    header, end = {}, 0
    for key, shape in tensors_of(name).items():
        size = 2 * math.prod(shape)
        header[key] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
