"""Models and adapters of any size with random weights, written a block at a time: to measure merging, not to test what it computes."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.contracts import adapter as adapter_files
from stages.contracts.base import CONFIG, INDEX
from stages.core.files import sha256_file, write_json
from stages.models.base_model import embedding_plan
from tests.stages.training.support.tiny import TARGETS

LLAMA_3B: dict[str, Any] = {
    "vocab_size": 128256, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
    "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True, "max_position_embeddings": 8192,
}  # fmt: skip
BLOCK = 1 << 22


def make_base(folder: Path, shard_bytes: int, **settings: Any) -> Path:
    """A Llama in bf16, in shards of at most `shard_bytes`."""
    import torch
    from transformers import LlamaConfig

    from stages.weights.meta_model import build_meta_model
    from stages.weights.shards import write_shard

    folder.mkdir(parents=True)
    LlamaConfig(**settings, dtype="bfloat16", bos_token_id=0, eos_token_id=1).save_pretrained(folder)
    torch.manual_seed(0)
    meta_model = build_meta_model(folder)
    shapes = {name: tuple(value.shape) for name, value in meta_model.model.state_dict().items()}
    if meta_model.head != meta_model.own_head:
        del shapes[meta_model.own_head]
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    for name, shape in shapes.items():
        if 2 * sum(map(math.prod, [*shards[-1].values(), shape])) > shard_bytes and shards[-1]:
            shards.append({})
        shards[-1][name] = shape
    places = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        told = {name: ("BF16", shape, 2 * math.prod(shape)) for name, shape in shard.items()}
        write_shard(folder / file, told, (block for shape in shard.values() for block in values(shape)))
        places |= dict.fromkeys(shard, file)
    write_json(
        folder / INDEX, {"metadata": {"total_size": 2 * sum(map(math.prod, shapes.values()))}, "weight_map": places}
    )
    return folder


def values(shape: tuple[int, ...]) -> Iterator[Any]:
    """Random values of a matrix, ones of a norm, in bf16 a block at a time."""
    import torch

    if len(shape) == 1:
        yield torch.ones(shape, dtype=torch.bfloat16)
        return
    step = max(1, BLOCK // shape[1])
    for first in range(0, shape[0], step):
        yield (torch.randn(min(step, shape[0] - first), shape[1]) / math.sqrt(shape[1])).to(torch.bfloat16)


def make_random_adapter(base: Path, tokens: Path, adapter: Path, rank: int = 16) -> Path:
    """A LoRA on every projection, with values of the size that training gives them."""
    import torch
    from peft import LoraConfig
    from safetensors.torch import save_file

    from stages.models.base_model import weight_files
    from stages.weights.folding import PREFIX
    from stages.weights.shards import read_headers

    adapter.mkdir()
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS, task_type="CAUSAL_LM")
    config.save_pretrained(adapter)
    found = {}
    for name, tensor in read_headers(weight_files(base)).items():
        module = name.removesuffix(".weight")
        if module.endswith(tuple(TARGETS)):
            out, width = tensor.shape
            found[f"{PREFIX}{module}.lora_A.weight"] = torch.randn(rank, width) / math.sqrt(width)
            found[f"{PREFIX}{module}.lora_B.weight"] = torch.randn(out, rank) / 10
    save_file(found, adapter / adapter_files.WEIGHTS)
    names = [CONFIG, *(file.name for file in weight_files(base))]
    training = adapter_files.Training(
        base={name: sha256_file(base / name) for name in names},
        load_in_4bit=True,
        dtype="bfloat16",
        embedding_rows=embedding_plan(base, tokens)[0],
        trained_rows=[],
        steps=1,
    )
    write_json(adapter / adapter_files.TRAINING, training)
    return adapter
