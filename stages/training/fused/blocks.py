"""The two halves of a decoder layer and the loss as autograd functions with their backward written out.

A half takes the residual stream as two parts, what it was and what the half before adds to it, so that sum and norm are one pass:
(residual, y) -> (residual + y, what this half adds). Both parts get the same gradient. T tokens, H hidden.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from stages.training.fused import attention as fused_attention
from stages.training.fused import ops as fused_ops
from stages.training.fused.attention import Documents
from stages.training.fused.projections import ProjectionGroup

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter


@dataclass
class AttentionHalf:
    """What is fixed about the first half of a layer."""

    norm: "Parameter"
    eps: float
    qkv: ProjectionGroup
    o: ProjectionGroup
    heads: int
    key_heads: int
    width: int
    """Of a head."""
    scale: float
    before: int
    """Ranks of the half before, whose output's gradient leaves room for so many columns."""
    keep: bool
    """Keep q, k, v and the normed input for the backward, or make them again there."""


@dataclass
class MlpHalf:
    """What is fixed about the second half of a layer."""

    norm: "Parameter"
    eps: float
    gate_up: ProjectionGroup
    down: ProjectionGroup
    before: int
    keep: bool


@dataclass
class FlatBatch:
    """What is fixed about a batch."""

    documents: Documents
    table: "tuple[Tensor, Tensor]"
    """Cosines and sines of the rotary embedding."""


def widen_gradient(gradient: "Tensor", more: int) -> "Tensor":
    """The extended buffer [T, H + more] that a gradient [T, H] lies in, or a copy of it in a new one."""
    rows, width = gradient.shape
    if not more:
        return gradient.contiguous()
    if (
        gradient.stride() == (width + more, 1)
        and gradient.storage_offset() == 0
        and gradient.untyped_storage().nbytes() == rows * (width + more) * gradient.element_size()
    ):
        return gradient.as_strided((rows, width + more), (width + more, 1))
    wide = fused_ops.make_extended(gradient, rows, width, more)
    wide[:, :width] = gradient
    return wide


class Attention(torch.autograd.Function):  # type: ignore[misc, unused-ignore]
    """Norm, q k v, rotary embedding, attention, o. Outputs (sum [T, H], what it adds [T, H])."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        residual: "Tensor | None",
        y: "Tensor",
        half: AttentionHalf,
        batch: FlatBatch,
        *_: "Tensor",
    ) -> "tuple[Tensor, Tensor]":
        """The last arguments are the LoRA matrices of `qkv`, then of `o`: named so that autograd sees them."""
        total, x, rstd = fused_ops.add_norm(residual, y, half.norm, half.eps, half.qkv.ranks)
        half.qkv.project_low(x)
        q, k, v = project_heads(half, batch, x)
        out, more = fused_attention.forward(q, k, v, batch.documents, half.scale)
        wide = fused_ops.make_extended(y, y.shape[0], half.o.width, half.o.ranks)
        wide[:, : half.o.width] = out.flatten(1)
        half.o.project_low(wide)
        added = half.o.forward(wide)
        kept = (x, q, k, v) if half.keep else (None, None, None, None)
        ctx.save_for_backward(total, rstd, out, wide[:, half.o.width :].clone(), *kept, *more)
        ctx.half, ctx.batch = half, batch
        return total, added

    @staticmethod
    def backward(ctx: Any, passed: "Tensor | None", gradient: "Tensor") -> "tuple[Tensor | None, ...]":  # noqa: ANN401
        """Gradients of the inputs, None for those that are no tensors."""
        half, batch = ctx.half, ctx.batch
        total, rstd, out, low, x, q, k, v, *more = ctx.saved_tensors
        wide = widen_gradient(gradient, half.o.ranks)
        of_out = half.o.backward(wide)
        of_o = half.o.gradients(out.flatten(1), low, wide)
        if x is None:
            _, x, _ = fused_ops.add_norm(None, total, half.norm, half.eps, half.qkv.ranks, store=False)
            half.qkv.project_low(x)
            q, k, v = project_heads(half, batch, x)
        dq, dk, dv = fused_attention.backward(
            of_out.view_as(out), q, k, v, out, batch.documents, half.scale, tuple(more)
        )
        del of_out, q, k, v
        wide = fused_ops.make_extended(x, x.shape[0], half.qkv.out, half.qkv.ranks)
        queries, keys = half.heads * half.width, half.key_heads * half.width
        for part, start, heads in ((dq, 0, half.heads), (dk, queries, half.key_heads)):
            fused_ops.rotate(part.flatten(1), wide[:, start:], batch.table, batch.documents.positions, heads, back=True)
        wide[:, queries + keys : half.qkv.out] = dv.flatten(1)
        del dq, dk, dv
        width = half.qkv.width
        half.qkv.backward_low(wide)
        of_qkv = half.qkv.gradients(x[:, :width], x[:, width:], wide)
        result = None
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            of_x = torch.mm(wide, half.qkv.buffer()[:, :width])
            del wide, x
            result = fused_ops.norm_backward(of_x, total, rstd, half.norm, passed, half.before)
        return result if ctx.needs_input_grad[0] else None, result, None, None, *of_qkv, *of_o


def project_heads(half: AttentionHalf, batch: FlatBatch, x: "Tensor") -> "tuple[Tensor, Tensor, Tensor]":
    """q, k (turned) and v of an extended normed input, [T, heads, D] each, views of one buffer."""
    together = half.qkv.forward(x)
    fused_ops.rotate(
        together, together, batch.table, batch.documents.positions, half.heads + half.key_heads, back=False
    )
    q, k, v = together.unflatten(1, (-1, half.width)).split((half.heads, half.key_heads, half.key_heads), 1)
    return q, k, v


class Mlp(torch.autograd.Function):  # type: ignore[misc, unused-ignore]
    """Norm, gate and up, SwiGLU, down. Outputs (sum [T, H], what it adds [T, H])."""

    @staticmethod
    def forward(ctx: Any, residual: "Tensor", y: "Tensor", half: MlpHalf, *_: "Tensor") -> "tuple[Tensor, Tensor]":  # noqa: ANN401
        """The last arguments are the LoRA matrices of `gate_up`, then of `down`: named so that autograd sees them."""
        total, x, rstd = fused_ops.add_norm(residual, y, half.norm, half.eps, half.gate_up.ranks)
        half.gate_up.project_low(x)
        gate_up = half.gate_up.forward(x, half.gate_up.ranks)
        product = fused_ops.swiglu(gate_up, half.down.ranks)
        half.down.project_low(product)
        added = half.down.forward(product)
        low = product[:, half.down.width :].clone()
        ctx.save_for_backward(total, rstd, low, *((x, gate_up) if half.keep else (None, None)))
        ctx.half = half
        return total, added

    @staticmethod
    def backward(ctx: Any, passed: "Tensor | None", gradient: "Tensor") -> "tuple[Tensor | None, ...]":  # noqa: ANN401
        """Gradients of the inputs, None for those that are no tensors. Overwrites what the forward kept."""
        half = ctx.half
        total, rstd, low, x, gate_up = ctx.saved_tensors
        if x is None:
            _, x, _ = fused_ops.add_norm(None, total, half.norm, half.eps, half.gate_up.ranks, store=False)
            half.gate_up.project_low(x)
            gate_up = half.gate_up.forward(x, half.gate_up.ranks)
        wide = widen_gradient(gradient, half.down.ranks)
        of_product = half.down.backward(wide)
        fused_ops.swiglu_backward(of_product, gate_up)
        of_down = half.down.gradients(of_product, low, wide)
        del of_product, wide
        width = half.gate_up.width
        wide = widen_gradient(gate_up, half.gate_up.ranks)
        half.gate_up.backward_low(wide)
        of_gate_up = half.gate_up.gradients(x[:, :width], x[:, width:], wide)
        of_x = torch.mm(wide, half.gate_up.buffer()[:, :width])
        del wide, gate_up, x
        result = fused_ops.norm_backward(of_x, total, rstd, half.norm, passed, half.before)
        return result, result, None, *of_gate_up, *of_down


class Pick(torch.autograd.Function):  # type: ignore[misc, unused-ignore]
    """Some rows of both parts of the residual stream: what no loss looks at need go no further."""

    @staticmethod
    def forward(ctx: Any, residual: "Tensor", y: "Tensor", rows: "Tensor", more: int) -> "tuple[Tensor, Tensor]":  # noqa: ANN401
        """rows: int64 [n], each at most once. more: ranks of the half before."""
        ctx.save_for_backward(rows)
        ctx.size, ctx.more = residual.shape[0], more
        return residual[rows], y[rows]

    @staticmethod
    def backward(ctx: Any, gradient: "Tensor", of_y: "Tensor") -> "tuple[Tensor | None, ...]":  # noqa: ANN401
        """Both parts of a half's input get one gradient, so one is enough."""
        (rows,) = ctx.saved_tensors
        width = gradient.shape[1]
        wide = torch.zeros((ctx.size, width + ctx.more), dtype=gradient.dtype, device=gradient.device)
        result = wide[:, :width]
        result[rows] = of_y
        return result, result, None, None


class Loss(torch.autograd.Function):  # type: ignore[misc, unused-ignore]
    """Norm, head and cross-entropy over rows that all have a target; the sum of their losses."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        residual: "Tensor",
        y: "Tensor",
        norm: "Parameter",
        eps: float,
        head: "Tensor",
        targets: "Tensor",
        chunk: int,
        more: int,
    ) -> "Tensor":
        """The gradient is made along with the loss, `chunk` rows of logits at a time.

        `head` is [vocabulary, H] and not trained, `targets` int64 [T], `more` the ranks of the half before.
        """
        total, x, rstd = fused_ops.add_norm(residual, y, norm, eps, 0)
        summed = torch.zeros((), dtype=fused_ops.at_least_float32(y), device=y.device)
        for start in range(0, len(targets), chunk):
            part = x[start : start + chunk]
            logits = torch.mm(part, head.t())
            summed += fused_ops.cross_entropy(logits, targets[start : start + chunk]).sum()
            torch.mm(logits, head, out=part)
            del logits
        ctx.save_for_backward(total, x, rstd, norm)
        ctx.more = more
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: "Tensor") -> "tuple[Tensor | None, ...]":  # noqa: ANN401
        """`gradient` is a number: one over the tokens of the step, times the loss scale where there is one."""
        total, of_x, rstd, norm = ctx.saved_tensors
        of_x = of_x * gradient.to(fused_ops.at_least_float32(of_x))
        result = fused_ops.norm_backward(of_x, total, rstd, norm, None, ctx.more)
        return result, result, None, None, None, None, None, None
