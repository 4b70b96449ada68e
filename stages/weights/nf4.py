"""NF4 as training sees the base: quantized by bitsandbytes with double quantization and back, one tensor at a time."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stages.models.base_model import torch_dtype
from stages.models.safetensors_header import StoredTensor
from stages.weights.shards import read_rows

if TYPE_CHECKING:
    import torch

BLOCK = 64
"""Weights that share a scale, as bitsandbytes' Linear4bit has it."""


@dataclass(frozen=True)
class Nf4:
    """Which weights training quantizes, and how."""

    names: frozenset[str]
    dtype: str
    """Of the base while training: a weight is rounded to it before it is quantized, and comes back in it."""
    place: str
    """cuda or cpu, where bitsandbytes does it."""

    def round_trip(self, tensor: StoredTensor) -> "torch.Tensor":
        """What a linear layer calculates with: a matrix quantized and dequantized, in `dtype`.

        Always of a whole tensor, since the scales are themselves quantized around the mean of all of them.
        """
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        weight = read_rows(tensor).to(self.place, torch_dtype(self.dtype))
        packed, state = quantize_4bit(weight, blocksize=BLOCK, compress_statistics=True, quant_type="nf4")
        restored: torch.Tensor = dequantize_4bit(packed, state)
        return restored.reshape(tensor.shape).cpu()
