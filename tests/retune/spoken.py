"""What `spoken` of conftest.py needs PyTorch for, made in a process of its own."""

import json
import shutil
from pathlib import Path

NAME = "base-f16.gguf"


def make() -> None:
    """In the working directory: data/gguf of data/base, and data/adapter."""
    base, tokens, merged = Path("data/base"), Path("data/tokens/tokenizer"), Path("data/merged")
    merged.mkdir()
    for folder in (base, tokens):
        for file in folder.iterdir():
            shutil.copyfile(file, merged / file.name)
    make_gguf(merged, Path("data/gguf"))
    make_adapter(base, Path("data/adapter"))


def make_gguf(merged: Path, folder: Path) -> None:
    from stages.gguf_export.convert import finish_conversion, start_conversion
    from stages.llama_cpp.quantize import quantize

    folder.mkdir()
    converting = start_conversion(merged, folder / "full.gguf", "f32", "base")
    finish_conversion(converting, folder / "full.gguf")
    quantize(folder / "full.gguf", folder / NAME, "f16", {"tokenizer.ggml.add_bos_token": True}, 1)
    (folder / "full.gguf").rename(folder / "other.gguf")
    checks = {"files": {NAME: {}, "other.gguf": {}}, "stop": ["<|eot_id|>"], "stops_by": "token"}
    (folder / "checks.json").write_text(json.dumps(checks))


def make_adapter(base: Path, folder: Path) -> None:
    """A LoRA that changes the answers, with the record of a training."""
    import torch
    from peft import LoraConfig, get_peft_model

    from stages.models.base_model import base_digests, base_rows, load_base

    torch.manual_seed(1)
    torch.set_num_threads(1)
    model = load_base(base, load_in_4bit=False, dtype="float32", place="cpu", rows=base_rows(base))
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    for name, value in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.5)
    tuned.save_pretrained(folder)
    record = {
        "base": base_digests(base),
        "load_in_4bit": True,
        "dtype": "bfloat16",
        "embedding_rows": base_rows(base),
        "trained_rows": [],
        "steps": 1,
    }
    (folder / "retune.json").write_text(json.dumps(record))
