"""One step of an export in a process of its own, so that its time and memory are its own: tests/bench/export.py measures them.

run     python -m tests.bench.export_steps STEP ROOT [QUANTIZATION]
"""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAME = "bench"
TYPE = "bf16"
"""Of the conversion: the merged model's own."""


def merge(root: Path) -> None:
    """The stage `merge` without its check: read, fold, write, tokenizer, config, sha256."""
    from stages import merge as stage
    from stages.contracts.merged import Losses, MergeChecks

    unmeasured = Losses(
        base=0.0, adapter_base16=None, adapter_4bit=None, merged_base16=0.0, merged_dequantized_nf4=None
    )
    passed = MergeChecks(
        into="base16",
        load_in_4bit=True,
        rows=0,
        positions=0,
        max_logit_difference=0.0,
        mean_kl=0.0,
        top1_agreement=1.0,
        max_change_from_base=1.0,
        losses=unmeasured,
    )
    stage.compare = lambda *_: passed
    run_merge_stage(root, root / "ours/merged")


def run_merge_stage(root: Path, target: Path) -> None:
    """The stage `merge`."""
    from stages import merge as stage
    from tests.stages.training.support.tiny import RUNTIME

    params = stage.MergeParams(into="base16", check_rows=4, max_logit_difference=1e6)
    runtime = stage.Runtime.model_validate({**RUNTIME, "device": "cpu"})
    stage.merge(root / "base", root / "adapter", root / "tokens", target, params, runtime)


def checked_merge(root: Path) -> None:
    """The stage `merge` as it is, with its check on four rows."""
    run_merge_stage(root, root / "checked/merged")


def convert(root: Path) -> None:
    """What the stage `gguf` does to convert."""
    from stages.gguf_export.convert import finish_conversion, start_conversion

    finish_conversion(
        start_conversion(root / "ours/merged", root / "ours/full.gguf", TYPE, NAME), root / "ours/full.gguf"
    )


def quantize(root: Path, quantization: str) -> None:
    """What the stage `gguf` does to quantize."""
    from stages.llama_cpp.quantize import quantize as stage

    stage(root / "ours/full.gguf", root / f"ours/{quantization}.gguf", quantization, {}, cores())


def checked_gguf(root: Path, *quantizations: str) -> None:
    """The stage `gguf` as it is: structure proven, files run on four rows and asked for four answers."""
    from tests.stages.gguf_export.support.records_in_small import export, params

    folder = root / "checked/export"
    folder.mkdir()
    for name, target in {"merged": "ours/merged", "adapter": "adapter", "tokens": "tokens"}.items():
        (folder / name).symlink_to(root / target)
    export(folder, params(*quantizations, answers=4))


def bare_merge(root: Path) -> None:
    """PEFT's `merge_and_unload` on the 16-bit base, saved by transformers."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(root / "base", dtype=torch.bfloat16)
    PeftModel.from_pretrained(model, str(root / "adapter")).merge_and_unload().save_pretrained(root / "bare/merged")
    for file in (root / "tokens/tokenizer").iterdir():
        shutil.copyfile(file, root / "bare/merged" / file.name)


def cores() -> int:
    """Cores that this process may use, as llama-quantize counts them."""
    return len(os.sched_getaffinity(0))


STEPS: dict[str, Callable[..., None]] = {
    "merge": merge,
    "convert": convert,
    "quantize": quantize,
    "checked_merge": checked_merge,
    "checked_gguf": checked_gguf,
    "bare_merge": bare_merge,
}

if __name__ == "__main__":
    STEPS[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
