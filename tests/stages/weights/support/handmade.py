"""Adapters made by PEFT itself with random values: what merging is tested on, without a training."""

from pathlib import Path
from typing import Any

from stages.contracts import adapter as adapter_files
from stages.contracts.base import CONFIG
from stages.core.files import read_json, sha256_file, write_json
from stages.models.base_model import embedding_plan
from tests.stages.training.support.tiny import TARGETS

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True, "r": 4},
    "dora": {"use_dora": True},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "saved": {"modules_to_save": ["lm_head", "norm"]},
    "embedding": {"modules_to_save": ["embed_tokens"]},
}


def precise(source: Path, target: Path) -> Path:
    """A copy of a base in fp32, so that rounding hides nothing."""
    import torch
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).save_pretrained(target)
    return target


def make_adapter(
    base: Path, tokens: Path, adapter: Path, *, load_in_4bit: bool = False, dtype: str = "float32", **settings: Any
) -> Path:
    """An adapter for `base` of whatever kind `settings` ask PEFT for, with the rows that `tokens` add to the embedding."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    rows, trained = embedding_plan(base, tokens)
    layers = ["embed_tokens"] if model.config.tie_word_embeddings else ["embed_tokens", "lm_head"]
    if trained:
        model.resize_token_embeddings(rows, mean_resizing=False)
        settings["trainable_token_indices"] = dict.fromkeys(layers, trained)
    config = LoraConfig(**{"r": 8, "lora_alpha": 16, "target_modules": TARGETS, **settings})
    tuned = get_peft_model(model, config)
    for name, value in tuned.named_parameters():
        if value.requires_grad and "lora_A" not in name:
            value.data += 0.05 * torch.randn_like(value)
    tuned.save_pretrained(adapter, save_embedding_layers=False)
    names = [CONFIG, *(file.name for file in base.glob("*.safetensors"))]
    training = adapter_files.Training(
        base={name: sha256_file(base / name) for name in names},
        load_in_4bit=load_in_4bit,
        dtype=dtype,
        embedding_rows=rows,
        trained_rows=trained,
        steps=1,
    )
    write_json(adapter / adapter_files.TRAINING, training)
    config_file = adapter / adapter_files.CONFIG
    write_json(config_file, {**read_json(config_file), "base_model_name_or_path": "data/base"})
    return adapter
