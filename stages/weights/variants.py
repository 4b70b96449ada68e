"""The models that the check of a merge compares, each as weights by name, read and worked out when a layer asks for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from stages.models.safetensors_header import StoredTensor
from stages.weights.folding import PREFIX, Update, fold
from stages.weights.nf4 import Nf4
from stages.weights.shards import read_rows, torch_dtype

if TYPE_CHECKING:
    import torch

ROWS_AT_ONCE = 4096
"""Rows of an embedding in memory while their mean is taken."""


@dataclass(frozen=True)
class Variant:
    """One model. Everything comes back in fp32."""

    tensors: Mapping[str, StoredTensor]
    """Of the base's or the merged folder."""
    nf4: Nf4 | None = None
    """Set: linear layers have the weights that training saw."""
    update: Update | None = None
    adapter: Mapping[str, StoredTensor] | None = None
    """The adapter's file, where the low-rank part stays apart and PEFT's own layers add it; `update` then gives trained rows and whole
    tensors alone. null: `update` is folded in and rounded to the base's dtype, as a merge does."""
    means: "dict[str, torch.Tensor]" = field(default_factory=dict)

    def read_tensor(self, name: str) -> "torch.Tensor":
        """A tensor by its name in the model of transformers, with the parts that PEFT puts into names."""
        if ".lora_" in name and self.adapter is not None:
            stored = PREFIX + name.replace(".default", "")
            return read_rows(self.adapter[stored if stored in self.adapter else stored.removesuffix(".weight")]).float()
        name = name.replace(".base_layer.", ".")
        if self.update is not None and name in self.update.whole:
            return self.round_weight(name, read_rows(self.update.whole[name]).float())
        tensor = self.tensors[name]
        quantized = self.nf4 is not None and name in self.nf4.names
        weight = (self.nf4.round_trip(tensor) if self.nf4 and quantized else read_rows(tensor)).float()
        if self.adapter is None and self.update is not None and name in self.update.low_rank:
            weight = fold(name, weight, 0, self.update)
        return self.round_weight(name, weight)

    def round_weight(self, name: str, weight: "torch.Tensor") -> "torch.Tensor":
        """A weight as a merge would write it, if this is a merged model."""
        if self.update is None or self.adapter is not None:
            return weight
        return weight.to(torch_dtype(self.tensors[name])).float()

    def read_rows(self, name: str, first: int, last: int) -> "torch.Tensor":
        """Rows `first` to `last` of the embedding or the head; a row that the base does not have is the mean of those it has."""
        import torch

        whole = self.update.whole.get(name) if self.update else None
        tensor = whole or self.tensors[name]
        there = read_rows(tensor, min(first, tensor.shape[0]), last).float()
        new = last - first - there.shape[0]
        weight = torch.cat([there, self.mean(tensor, name).expand(new, -1)]) if new else there
        if self.update and not whole:
            weight = fold(name, weight, first, self.update)
        return self.round_weight(name, weight)

    def read_single_rows(self, name: str, numbers: Sequence[int]) -> "torch.Tensor":
        """Single rows of the embedding."""
        import torch

        return torch.cat([self.read_rows(name, number, number + 1) for number in numbers])

    def mean(self, tensor: StoredTensor, name: str) -> "torch.Tensor":
        """The mean row of a tensor, of shape 1 x columns."""
        import torch

        if name not in self.means:
            total = torch.zeros(1, *tensor.shape[1:], dtype=torch.float64)
            for first in range(0, tensor.shape[0], ROWS_AT_ONCE):
                total += read_rows(tensor, first, first + ROWS_AT_ONCE).double().sum(0, keepdim=True)
            self.means[name] = (total / tensor.shape[0]).float()
        return self.means[name]

    def with_adapter(self, update: Update, adapter: Mapping[str, StoredTensor]) -> "Variant":
        """This model with the adapter beside it."""
        return replace(self, update=update, adapter=adapter)
