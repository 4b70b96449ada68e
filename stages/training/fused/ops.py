"""The element-wise steps of a fused training step: Triton kernels on a GPU, the same in plain torch elsewhere.

Shapes: T tokens, H hidden, F width of the MLP. `make_extended(T, H, more)` is a buffer [T, H + more] whose first H columns hold an
activation and whose last columns the activation's low-rank product, so that one matrix product takes both (`fused.projections`).
"""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

MLP_BLOCK = 1024
VOCABULARY_BLOCK = 8192
DEQUANTIZE_BYTES = 256
MOST_WEIGHTS = 3


def use_kernels(value: "Tensor") -> bool:
    """Whether the Triton kernels are to be used for a tensor: on a GPU, and where Triton's interpreter is switched on, for tests."""
    return value.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"


def power_of_two(number: int) -> int:
    """The next one up."""
    return 1 << (number - 1).bit_length()


def make_extended(like: "Tensor", rows: int, width: int, more: int) -> "Tensor":
    """An empty buffer [rows, width + more] of `like`'s dtype and device."""
    return torch.empty((rows, width + more), dtype=like.dtype, device=like.device)


def add_norm(
    residual: "Tensor | None", y: "Tensor", weight: "Tensor", eps: float, more: int, *, store: bool = True
) -> "tuple[Tensor, Tensor, Tensor]":
    """(residual + y, an extended buffer with its RMSNorm times `weight`, 1 / its root mean square [T] in float32).

    `store` is False where residual is None and y itself may be returned as the sum.
    """
    rows, width = y.shape
    out = make_extended(y, rows, width, more)
    if use_kernels(y):
        from stages.training.fused import kernels as fused_kernels

        total = torch.empty((rows, width), dtype=y.dtype, device=y.device) if store else y
        rstd = torch.empty(rows, dtype=torch.float32, device=y.device)
        fused_kernels.add_norm[(rows,)](
            y if residual is None else residual, y, weight, total, out, rstd, eps, width, y.stride(0), out.stride(0),
            ADD=residual is not None, STORE=store, BLOCK=power_of_two(width), num_warps=8,
        )  # fmt: skip
        return total, out, rstd
    total = y + residual if residual is not None else y.clone()
    wide = total.to(at_least_float32(y))
    rstd = torch.rsqrt(wide.square().mean(1) + eps)
    out[:, :width] = (wide * rstd[:, None] * weight.to(wide)).to(y.dtype)
    return total, out, rstd


def at_least_float32(value: "Tensor") -> torch.dtype:
    """float64 stays what it is, for tests that compare in it."""
    return torch.promote_types(value.dtype, torch.float32)


def norm_backward(
    gradient: "Tensor", total: "Tensor", rstd: "Tensor", weight: "Tensor", passed: "Tensor | None", more: int
) -> "Tensor":
    """The gradient [T, H] of `add_norm`'s sum, from that of the norm and that of the sum itself, in an extended buffer."""
    rows, width = total.shape
    out = make_extended(total, rows, width, more)
    if use_kernels(total):
        from stages.training.fused import kernels as fused_kernels

        fused_kernels.norm_backward[(rows,)](
            gradient, total, rstd, weight, total if passed is None else passed, out, width,
            gradient.stride(0), width if passed is None else passed.stride(0), out.stride(0),
            ADD=passed is not None, BLOCK=power_of_two(width), num_warps=8,
        )  # fmt: skip
        return out[:, :width]
    normed = total.to(rstd) * rstd[:, None]
    wide = gradient.to(rstd) * weight.to(rstd)
    result = rstd[:, None] * (wide - normed * (wide * normed).mean(1, keepdim=True))
    out[:, :width] = (result if passed is None else result + passed.to(rstd)).to(total.dtype)
    return out[:, :width]


def rotate(
    source: "Tensor", out: "Tensor", table: "tuple[Tensor, Tensor]", positions: "Tensor", heads: int, *, back: bool
) -> None:
    """Rotary embedding of the first `heads` heads of each row of `source` into `out` (may be the same tensor).

    `table` holds cosines and sines, [positions, half a head's width], float32; `back` turns the other way, for gradients.
    """
    cos, sin = table
    half = cos.shape[1]
    if use_kernels(source):
        from stages.training.fused import kernels as fused_kernels

        fused_kernels.rotate[(source.shape[0],)](
            source, out, cos, sin, positions, source.stride(0), out.stride(0),
            HEADS=heads, HALF=half, HEADS_UP=power_of_two(heads), HALF_UP=power_of_two(half), BACK=back, num_warps=8,
        )  # fmt: skip
        return
    values = source[:, : heads * 2 * half].unflatten(1, (heads, 2, half)).to(cos)
    c, s = cos[positions][:, None], sin[positions][:, None] * (-1 if back else 1)
    first, second = values.unbind(2)
    turned = torch.stack((first * c - second * s, second * c + first * s), 2)
    out[:, : heads * 2 * half] = turned.flatten(1).to(out.dtype)


def swiglu(gate_up: "Tensor", more: int) -> "Tensor":
    """silu(gate) * up in an extended buffer, from [T, 2 * F] (rows may be further apart)."""
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = make_extended(gate_up, rows, width, more)
    if use_kernels(gate_up):
        from stages.training.fused import kernels as fused_kernels

        fused_kernels.swiglu[(rows, -(-width // MLP_BLOCK))](
            gate_up, out, width, gate_up.stride(0), out.stride(0), BLOCK=MLP_BLOCK
        )
        return out
    gate, up = gate_up.to(at_least_float32(gate_up)).chunk(2, 1)
    out[:, :width] = (torch.nn.functional.silu(gate) * up).to(out.dtype)
    return out


def swiglu_backward(gradient: "Tensor", gate_up: "Tensor") -> None:
    """In place: gate_up [T, 2 * F] becomes its gradient, and the product's gradient [T, F] becomes the product."""
    rows, width = gradient.shape
    if use_kernels(gradient):
        from stages.training.fused import kernels as fused_kernels

        fused_kernels.swiglu_backward[(rows, -(-width // MLP_BLOCK))](
            gradient, gate_up, width, gradient.stride(0), gate_up.stride(0), BLOCK=MLP_BLOCK
        )
        return
    gate, up = gate_up.to(at_least_float32(gate_up)).chunk(2, 1)
    grad = gradient.to(gate)
    sigmoid = torch.sigmoid(gate)
    silu = gate * sigmoid
    of_both = torch.cat((grad * up * sigmoid * (1 + gate * (1 - sigmoid)), grad * silu), 1)
    gradient.copy_(silu * up)
    gate_up.copy_(of_both)


def cross_entropy(logits: "Tensor", targets: "Tensor") -> "Tensor":
    """Losses [T] in float32 (or wider) of logits [T, vocabulary]; in place, the logits become the losses' gradients."""
    if use_kernels(logits):
        from stages.training.fused import kernels as fused_kernels

        losses = torch.empty(logits.shape[0], dtype=torch.float32, device=logits.device)
        fused_kernels.cross_entropy[(logits.shape[0],)](
            logits, targets, losses, logits.shape[1], logits.stride(0), BLOCK=VOCABULARY_BLOCK, num_warps=16
        )
        return losses
    wide = logits.to(at_least_float32(logits))
    log_shares = torch.log_softmax(wide, 1)
    gradient = log_shares.exp()
    gradient[torch.arange(len(targets), device=targets.device), targets] -= 1
    logits.copy_(gradient)
    return -log_shares.gather(1, targets[:, None])[:, 0]


def dequantize(
    weights: "Sequence[Tensor]", a: "Tensor", b: "Tensor", out: "Tensor", arguments: "DequantizeArguments | None"
) -> None:
    """Write a group's buffer (`fused.projections`) from its bitsandbytes 4-bit weights, at most three, and its A and B.

    `arguments` are `kernel_arguments` of these weights, which are the same every time; None: without the kernel.
    """
    width, rows = a.shape[1], b.shape[0]
    if arguments is not None and use_kernels(out):
        from stages.training.fused import kernels as fused_kernels

        fused_kernels.dequantize_nf4[(rows + a.shape[0], -(-width // (2 * DEQUANTIZE_BYTES)))](
            *arguments.tensors, a, b, out, *arguments.ends, width, a.shape[0], out.stride(0),
            NESTED=arguments.nested, SIZE=arguments.size, OUTER=arguments.outer, BYTES=DEQUANTIZE_BYTES,
            RANKS_UP=power_of_two(max(a.shape[0], 1)),
        )  # fmt: skip
        return
    from bitsandbytes.functional import dequantize_4bit

    start = 0
    for weight in weights:
        state = weight.quant_state
        end = start + state.shape[0]
        out[start:end, :width] = dequantize_4bit(weight, state)
        start = end
    out[:rows, width:] = b
    out[rows:, :width] = a


@dataclass(frozen=True)
class DequantizeArguments:
    """What the kernel `dequantize_nf4` is told about a group's weights."""

    tensors: "list[Tensor]"
    ends: list[int]
    nested: bool
    size: int
    outer: int


def kernel_arguments(weights: "Sequence[Tensor]") -> "DequantizeArguments | None":
    """Those of up to three 4-bit weights; None if one launch of the kernel cannot read them all: NF4 with the same block sizes, scales alike."""
    states = [weight.quant_state for weight in weights]
    kinds = {(state.quant_type, state.blocksize, bool(state.nested)) for state in states}
    outer = {state.state2.blocksize for state in states if state.nested} or {1}
    if (
        len(weights) > MOST_WEIGHTS
        or len(kinds) > 1
        or len(outer) > 1
        or states[0].quant_type != "nf4"
        or states[0].shape[1] % 2
    ):
        return None
    nested = bool(states[0].nested)
    tensors: list[Tensor] = []
    ends: list[int] = []
    for number in range(MOST_WEIGHTS):
        weight, state = (weights[number], states[number]) if number < len(weights) else (weights[-1], states[-1])
        second, offset = (state.state2.absmax, state.offset) if nested else (state.absmax, state.absmax)
        tensors += [weight.data, state.absmax, second, offset]
        ends.append((ends[-1] if ends else 0) + (state.shape[0] if number < len(weights) else 0))
    tensors += [states[0].state2.code if nested else states[0].code, states[0].code]
    return DequantizeArguments(tensors, ends, nested, states[0].blocksize, outer.pop())
