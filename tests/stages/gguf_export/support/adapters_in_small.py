"""A base, an adapter on it with random values, and the model that PEFT merges of them, as the stages before the export leave them."""

from pathlib import Path
from typing import Any

from stages.contracts import adapter as adapter_files
from stages.contracts import base as base_files
from stages.core.files import write_json
from tests.stages.gguf_export.support.models_in_small import make_merged
from tests.stages.training.support.tiny import TARGETS

RANK, ALPHA = 8, 16


def make_trained(
    root: Path, tokenizer: Any, family: str = "llama", vocabulary: int | None = None, seed: int = 1, **lora: Any
) -> None:
    """`base`, `adapter` and `merged` in a folder. `vocabulary`: as make_merged. `lora`: more for PEFT's LoraConfig."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    made = root / "made"
    make_merged(made, tokenizer, family=family, vocabulary=vocabulary)
    (root / "base").mkdir(exist_ok=True)
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        (root / "base" / name).write_bytes((made / name).read_bytes())
    # in float32, so that the merged weights are rounded once, as the stage merge does it
    base = AutoModelForCausalLM.from_pretrained(made, dtype=torch.float32)
    config = LoraConfig(**{"r": RANK, "lora_alpha": ALPHA, "target_modules": TARGETS, "task_type": "CAUSAL_LM", **lora})
    model = get_peft_model(base, config)
    draw = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        if ".lora_" in name:
            value.data = torch.randn(value.shape, generator=draw) * (0.05 if ".lora_B." in name else 0.1)
    model.save_pretrained(root / "adapter")
    training = adapter_files.Training(
        base={},
        load_in_4bit=False,
        dtype="float32",
        embedding_rows=vocabulary or len(tokenizer),
        trained_rows=[],
        steps=1,
    )
    write_json(root / "adapter" / adapter_files.TRAINING, training)
    model.merge_and_unload().to(torch.bfloat16).save_pretrained(root / "merged")
    tokenizer.save_pretrained(root / "merged")
    write_json(root / "merged" / base_files.MERGED_MARKER, {"into": "base16"})
