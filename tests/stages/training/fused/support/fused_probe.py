"""What needs a process of its own, for test_fused_model.py: Unsloth's patches, and Triton's interpreter. Prints JSON."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def unsloth(folder: str) -> dict[str, Any]:
    """A tiny NF4 model through Unsloth: its own loss and gradients, conversation by conversation, and the fused ones."""
    os.environ.update(UNSLOTH_COMPILE_LOCATION=f"{folder}/compiled", HF_HUB_OFFLINE="1", UNSLOTH_DISABLE_STATISTICS="1")
    from unsloth import FastLanguageModel  # isort: skip
    import torch

    from stages.training.fused.model import attach
    from tests.stages.training.fused.support.fused_models import TARGETS, furthest, gradients
    from tests.stages.training.support.tiny import make_world

    make_world(Path(folder))
    model, _ = FastLanguageModel.from_pretrained(
        f"{folder}/base", max_seq_length=128, dtype=torch.float32, load_in_4bit=True, tokenizer_name=f"{folder}/tokens/tokenizer",
        local_files_only=True,
    )  # fmt: skip
    model = FastLanguageModel.get_peft_model(
        model, r=8, lora_alpha=16, lora_dropout=0, bias="none", target_modules=list(TARGETS), use_gradient_checkpointing=False
    )  # fmt: skip
    model.train()
    for name, value in model.named_parameters():
        if "lora_B" in name:
            value.data = 0.1 * torch.randn_like(value)
    lengths = [40, 7, 63]
    ids = torch.randint(0, 384, (sum(lengths),))
    labels = torch.where(torch.rand(len(ids)) < 0.3, -100, ids)
    labels[[0, 40, 47]] = -100
    items = int((labels != -100).sum())
    own = torch.zeros(())
    for line, wanted in zip(ids.split(lengths), labels.split(lengths), strict=True):
        own = own + model(input_ids=line[None], labels=wanted[None], num_items_in_batch=items).loss
    own.backward()
    wanted_gradients = gradients(model)
    reason = attach(model)
    loss = model(input_ids=ids[None], labels=labels[None], packed_seq_lengths=lengths, num_items_in_batch=items).loss
    loss.backward()
    return {
        "reason": reason,
        "own": float(own.detach()),
        "loss": float(loss.detach()),
        "furthest": furthest(gradients(model), wanted_gradients),
    }


def kernels() -> dict[str, float]:
    """{kernel: distance of its float32 result from plain torch's, relative}."""
    import bitsandbytes
    import torch
    from bitsandbytes.nn import Params4bit

    from stages.training.fused import ops as fused_ops

    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    rows, width, more = 5, 96, 16
    residual, y, weight, gradient = normal(rows, width), normal(rows, width), normal(width), normal(rows, width)
    total, _, rstd = fused_ops.add_norm(residual, y, weight, 1e-5, more)
    passed = normal(rows, width + more)[:, :width]
    table, positions, heads = (normal(9, 12), normal(9, 12)), torch.tensor([0, 1, 2, 0, 8]), normal(rows, 5 * 24 + 8)
    gate_up, product = normal(rows, 2 * 80 + 16), normal(rows, 80)
    logits, targets = 3 * normal(rows, 10000), torch.tensor([0, 9999, 5, 8191, 8192])

    def weights(*sizes: int, nested: bool) -> list[Params4bit]:
        found = []
        for size in sizes:
            packed, state = bitsandbytes.functional.quantize_4bit(
                size * normal(size, 192), quant_type="nf4", compress_statistics=nested
            )
            found.append(
                Params4bit(packed, requires_grad=False, quant_state=state, quant_type="nf4", bnb_quantized=True)
            )
        return found

    def dequantized(sources: list[Params4bit]) -> torch.Tensor:
        size = sum(source.quant_state.shape[0] for source in sources)
        out = torch.zeros(size + 6, 198)
        a, b = torch.ones(6, 192), torch.full((size, 6), 2.0)
        fused_ops.dequantize(sources, a, b, out, fused_ops.kernel_arguments(sources))
        return out

    def turned(*, back: bool) -> torch.Tensor:
        out = heads.clone()
        fused_ops.rotate(out, out, table, positions, 3, back=back)
        return out

    def swiglu_backward() -> torch.Tensor:
        both, of_product = gate_up.clone(), product.clone()
        fused_ops.swiglu_backward(of_product, both[:, :160])
        return torch.cat((of_product, both[:, :160]), 1)

    def cross_entropy() -> torch.Tensor:
        changed = logits.clone()
        return torch.cat((fused_ops.cross_entropy(changed, targets)[:, None], changed), 1)

    def add_norm(first: torch.Tensor | None) -> torch.Tensor:
        summed, out, scale = fused_ops.add_norm(first, y, weight, 1e-5, more)
        return torch.cat((summed, out[:, :width], scale[:, None]), 1)

    three, two, flat = weights(40, 16, 24, nested=True), weights(64, 32, nested=True), weights(48, nested=False)
    cases: dict[str, Callable[[], torch.Tensor]] = {
        "add_norm": lambda: add_norm(residual),
        "add_norm without residual": lambda: add_norm(None),
        "norm_backward": lambda: fused_ops.norm_backward(gradient, total, rstd, weight, passed, more),
        "norm_backward alone": lambda: fused_ops.norm_backward(gradient, total, rstd, weight, None, more),
        "rotate": lambda: turned(back=False),
        "rotate back": lambda: turned(back=True),
        "swiglu": lambda: fused_ops.swiglu(gate_up[:, :160], 8)[:, :80],
        "swiglu_backward": swiglu_backward,
        "cross_entropy": cross_entropy,
        "dequantize three": lambda: dequantized(three),
        "dequantize two": lambda: dequantized(two),
        "dequantize one, plain scales": lambda: dequantized(flat),
    }
    distances = {}
    for name, case in cases.items():
        os.environ["TRITON_INTERPRET"] = "1"
        found = case().clone()
        os.environ["TRITON_INTERPRET"] = "0"
        expected = case()
        distances[name] = float((found - expected).norm() / expected.norm())
    return distances


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    print(json.dumps(unsloth(*rest) if what == "unsloth" else kernels()))  # noqa: T201 - read by the test
