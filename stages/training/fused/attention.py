"""Causal attention within each of the documents that lie one after the other in a batch, forward and backward apart.

On a GPU torch's FlashAttention for sequences of different lengths, which takes fewer key than query heads as they are; elsewhere
torch's own attention, document by document.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True)
class Documents:
    """Where the documents of a batch of T tokens lie."""

    lengths: "Sequence[int]"
    """Tokens of each; together T."""
    bounds: "Tensor"
    """int32 [documents + 1]: where each begins, and the end of the last."""
    positions: "Tensor"
    """int64 [T]: place of each token in its document."""
    longest: int

    @classmethod
    def of(cls, lengths: "Sequence[int]", device: torch.device) -> "Documents":
        """From the lengths, without waiting for the GPU."""
        sizes = torch.tensor(lengths, dtype=torch.int64)
        ends = torch.cumsum(sizes, 0)
        bounds = torch.cat((torch.zeros(1, dtype=torch.int64), ends))
        positions = torch.arange(int(ends[-1])) - torch.repeat_interleave(bounds[:-1], sizes)
        return cls(lengths, to_device(bounds.to(torch.int32), device), to_device(positions, device), int(sizes.max()))


def to_device(value: "Tensor", device: torch.device) -> "Tensor":
    """A copy that the CPU does not wait for."""
    return value.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else value.to(device)


def forward(
    q: "Tensor", k: "Tensor", v: "Tensor", documents: Documents, scale: float
) -> "tuple[Tensor, tuple[Tensor, ...]]":
    """([T, heads, D], what `backward` needs besides) of q [T, heads, D] and k, v [T, key heads, D]."""
    if q.is_cuda:
        out, log_sums, random_state, unused, _ = torch.ops.aten._flash_attention_forward(  # noqa: SLF001 - varlen_attn's own call
            q, k, v, documents.bounds, documents.bounds, documents.longest, documents.longest, 0.0, True, False, scale=scale  # noqa: FBT003
        )  # fmt: skip
        return out, (log_sums, random_state, unused)
    return torch.cat([attend(*parts, scale=scale) for parts in split(documents, q, k, v)]), ()


def backward(
    gradient: "Tensor", q: "Tensor", k: "Tensor", v: "Tensor", out: "Tensor", documents: Documents, scale: float,
    more: "tuple[Tensor, ...]",
) -> "tuple[Tensor, Tensor, Tensor]":  # fmt: skip
    """The gradients of q, k and v, each of its shape."""
    if q.is_cuda:
        log_sums, random_state, unused = more
        grads: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._flash_attention_backward(  # noqa: SLF001
            gradient, q, k, v, out, log_sums, documents.bounds, documents.bounds, documents.longest, documents.longest,
            0.0, True, random_state, unused, scale=scale,  # noqa: FBT003
        )  # fmt: skip
        return grads
    found = []
    for part_of_gradient, *parts in split(documents, gradient, q, k, v):
        leaves = [part.detach().requires_grad_() for part in parts]
        with torch.enable_grad():
            found.append(torch.autograd.grad(attend(*leaves, scale=scale), leaves, part_of_gradient))
    dq, dk, dv = (torch.cat(parts) for parts in zip(*found, strict=True))
    return dq, dk, dv


def split(documents: Documents, *values: "Tensor") -> "list[tuple[Tensor, ...]]":
    """Each document's part of each tensor."""
    return list(zip(*(value.split(list(documents.lengths)) for value in values), strict=True))


def attend(q: "Tensor", k: "Tensor", v: "Tensor", *, scale: float) -> "Tensor":
    """Causal attention of one document, [L, heads, D]."""
    heads_first = [value.transpose(0, 1)[None] for value in (q, k, v)]
    out = torch.nn.functional.scaled_dot_product_attention(
        *heads_first, is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )
    return out[0].transpose(0, 1)
