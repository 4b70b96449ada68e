"""The weights of a group of projections with their LoRA matrices beside them, so that one matrix product takes base and adapter.

q, k and v form a group, gate and up another, o and down one each. A group of `out` rows, `in` columns and adapters of together R
ranks (padded to whole tiles) has the buffer

    [ W   s B ]      W [out, in], s B [out, R] block-diagonal (scaled), A [R, in]
    [ A    .  ]

whose upper part gives the forward `[x | x A^T] [W | s B]^T` and whose left part the backward `[dY | s dY B] [W ; A]`.
A 4-bit base is dequantized into a buffer that all layers share, or once for all where memory allows (`resident`); a 16-bit base
lives in its buffers, its own weights are views of them, or is spread over processes and gathered into shared ones (`fused.sharding`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from stages.training.fused.ops import dequantize, kernel_arguments, make_extended
from stages.training.fused_coverage import pad_ranks

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module, Parameter


class WeightStore(Protocol):
    """Who keeps the weights of groups where no layer has its own (`fused.sharding`)."""

    place: torch.device
    """The device to compute on."""

    def keep(self, group: "ProjectionGroup") -> "Tensor":
        """Take a group's weights over; the part of them that this process keeps."""

    def take(self, group: "ProjectionGroup") -> "Tensor":
        """[out + R, in + R] of a group, valid until the next one of its kind is asked for."""


class SharedBuffers:
    """Buffers that groups of one shape share, made when first asked for."""

    def __init__(self) -> None:
        self.buffers: dict[tuple[int, int], Tensor] = {}

    def get(self, rows: int, columns: int, like: "Tensor") -> "Tensor":
        """A buffer [rows, columns] whose content is whatever its last user left."""
        if (rows, columns) not in self.buffers:
            self.buffers[rows, columns] = torch.zeros((rows, columns), dtype=like.dtype, device=like.device)
        return self.buffers[rows, columns]


class ProjectionGroup:
    """Projections of one input, PEFT's LoRA layers or plain linear layers. See the file's docstring for the shapes."""

    def __init__(
        self,
        layers: "Sequence[Module]",
        shared: SharedBuffers,
        dtype: torch.dtype,
        *,
        tile: int,
        resident: bool,
        kind: int = 0,
        shards: "WeightStore | None" = None,
    ) -> None:
        self.kind = kind
        """Groups of one kind have one shape: the place in their layer."""
        self.bases = [getattr(layer, "base_layer", layer) for layer in layers]
        self.outs = [base.out_features for base in self.bases]
        self.width = self.bases[0].in_features
        self.out = sum(self.outs)
        self.adapters: list[tuple[Parameter, Parameter, float] | None] = [find_lora(layer) for layer in layers]
        ranks = [0 if found is None else found[0].shape[0] for found in self.adapters]
        self.ranks = pad_ranks(sum(ranks), tile)
        self.rank_starts = [sum(ranks[:number]) for number in range(len(ranks))]
        self.parameters = [part for found in self.adapters if found is not None for part in found[:2]]
        place = self.bases[0].weight.device if shards is None else shards.place
        self.a = torch.zeros((self.ranks, self.width), dtype=dtype, device=place)
        self.b = torch.zeros((self.out, self.ranks), dtype=dtype, device=place)
        self.bias = join_biases(self.bases, self.outs, self.a)
        self.quantized = all(hasattr(base.weight, "quant_state") for base in self.bases)
        self.weights = [base.weight for base in self.bases]
        self.arguments = kernel_arguments(self.weights) if self.quantized else None
        self.shared = shared
        self.copies = self.views()
        self.shards = shards
        self.part = self.a if shards is None else shards.keep(self)
        """What this process keeps of a base that is spread over several."""
        self.resident = None if shards is not None or (self.quantized and not resident) else self.take_weights()

    def views(self) -> "list[tuple[Parameter, float, Tensor]]":
        """(matrix, its scale, where in `a` or `b` its copy belongs) of each adapter's A and B."""
        found, row = [], 0
        for rows, start, adapter in zip(self.outs, self.rank_starts, self.adapters, strict=True):
            if adapter is not None:
                a, b, scale = adapter
                end = start + a.shape[0]
                found += [(a, 1.0, self.a[start:end]), (b, scale, self.b[row : row + rows, start:end])]
            row += rows
        return found

    def take_weights(self) -> "Tensor":
        """A buffer of the group's own, with its weights in it; 16-bit layers keep theirs as views of it."""
        buffer = torch.zeros((self.out + self.ranks, self.width + self.ranks), dtype=self.a.dtype, device=self.a.device)
        if self.quantized:
            dequantize(self.weights, self.a, self.b, buffer, self.arguments)
            return buffer
        start = 0
        for base, rows in zip(self.bases, self.outs, strict=True):
            view = buffer[start : start + rows, : self.width]
            view.copy_(base.weight.data)
            base.weight.data = view
            start += rows
        return buffer

    def fill(self) -> None:
        """Bring a buffer of the group's own up to date with `a` and `b`."""
        if self.resident is not None:
            self.resident[: self.out, self.width :] = self.b
            self.resident[self.out :, : self.width] = self.a

    def buffer(self) -> "Tensor":
        """[out + R, in + R], valid until the next group of this shape asks."""
        if self.resident is not None:
            return self.resident
        if self.shards is not None:
            return self.shards.take(self)
        buffer = self.shared.get(self.out + self.ranks, self.width + self.ranks, self.a)
        dequantize(self.weights, self.a, self.b, buffer, self.arguments)
        return buffer

    def project_low(self, x: "Tensor") -> None:
        """Fill the last R columns of an extended [T, in + R] with x A^T."""
        if self.ranks:
            torch.mm(x[:, : self.width], self.a.t(), out=x[:, self.width :])

    def forward(self, x: "Tensor", more: int = 0) -> "Tensor":
        """[T, out] (a view of [T, out + more]) of an extended [T, in + R]."""
        weight = self.buffer()[: self.out].t()
        if self.bias is not None:
            out = torch.addmm(self.bias, x, weight)
            if not more:
                return out
            wide = make_extended(x, x.shape[0], self.out, more)
            wide[:, : self.out] = out
            return wide[:, : self.out]
        return torch.mm(x, weight, out=make_extended(x, x.shape[0], self.out, more)[:, : self.out])

    def backward(self, gradient: "Tensor") -> "Tensor":
        """The gradient [T, in] of the input, of the output's gradient in an extended [T, out + R]; fills its last R columns."""
        self.backward_low(gradient)
        return torch.mm(gradient, self.buffer()[:, : self.width])

    def backward_low(self, gradient: "Tensor") -> None:
        """Fill the last R columns of an extended [T, out + R] with s dY B."""
        if self.ranks:
            torch.mm(gradient[:, : self.out], self.b, out=gradient[:, self.out :])

    def gradients(self, x: "Tensor", low: "Tensor", gradient: "Tensor") -> "list[Tensor]":
        """Those of `parameters`, in their order.

        Args:
            x: the input [T, in].
            low: x A^T, [T, R].
            gradient: the extended gradient [T, out + R] after `backward_low`.
        """
        if not self.parameters:
            return []
        of_a = thin_product(gradient[:, self.out :], x)
        of_b = thin_product(gradient[:, : self.out], low)
        scales = {adapter[2] for adapter in self.adapters if adapter is not None}
        if len(scales) == 1:
            common = scales.pop()
            if common != 1.0:
                of_b *= common
        found, row = [], 0
        for rows, start, adapter in zip(self.outs, self.rank_starts, self.adapters, strict=True):
            if adapter is not None:
                a, b, scale = adapter
                end = start + a.shape[0]
                part = of_b[row : row + rows, start:end]
                found += [of_a[start:end].to(a.dtype), (part * scale if scale in scales else part).to(b.dtype)]
            row += rows
        return found


def thin_product(left: "Tensor", right: "Tensor") -> "Tensor":
    """left^T right, [T, M] and [T, N] to [M, N], in float32 or wider."""
    if left.is_cuda and left.dtype != torch.float32:
        return torch.mm(left.t(), right, out_dtype=torch.float32)
    return torch.mm(left.t(), right)


def refresh(groups: "Sequence[ProjectionGroup]") -> None:
    """Bring the groups' copies of A and B up to date.

    Before every forward pass: bitsandbytes' optimizers write through pointers, so that no version of a parameter tells of their steps.
    """
    copies = [copy for group in groups for copy in group.copies]
    with torch.no_grad():
        parts = [part.data for part, _, _ in copies]
        scales = [scale for _, scale, _ in copies]
        if any(scale != 1.0 for scale in scales):
            parts = list(torch._foreach_mul(parts, scales))  # noqa: SLF001
        torch._foreach_copy_([view for _, _, view in copies], parts)
        for group in groups:
            group.fill()


def find_lora(layer: "Module") -> "tuple[Parameter, Parameter, float] | None":
    """(A [r, in], B [out, r], scale) of a PEFT layer's active adapter; None for a layer without."""
    if not hasattr(layer, "lora_A"):
        return None
    name = layer.active_adapters[0]
    return layer.lora_A[name].weight, layer.lora_B[name].weight, float(layer.scaling[name])


def join_biases(bases: "Sequence[Module]", outs: Sequence[int], like: "Tensor") -> "Tensor | None":
    """The biases of the group's layers one after the other, zeros where a layer has none; None if no layer has any."""
    if all(base.bias is None for base in bases):
        return None
    parts = [
        torch.zeros(rows, dtype=like.dtype, device=like.device) if base.bias is None else base.bias.data.to(like)
        for base, rows in zip(bases, outs, strict=True)
    ]
    return torch.cat(parts)
