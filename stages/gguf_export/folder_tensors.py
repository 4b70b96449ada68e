"""The tensors of a transformers folder, where they lie in its safetensors files: read one at a time, without PyTorch."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.core.errors import StageError
from stages.models.safetensors_header import read_header

STORED: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
"""safetensors' dtypes -> how NumPy can look at them; BF16 as the upper half of a float32."""

EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Weight:
    """One tensor in one safetensors file."""

    path: Path
    dtype: str
    """safetensors' name of it."""
    shape: tuple[int, ...]
    offset: int
    """Of its first byte in the file."""

    def map_values(self) -> NDArray[np.generic]:
        """The values as they are stored, memory-mapped; BF16 as uint16."""
        values: NDArray[np.generic] = np.memmap(
            self.path, dtype=STORED[self.dtype], mode="r", offset=self.offset, shape=self.shape
        )
        return values

    def read_rows(self, which: NDArray[np.int64]) -> NDArray[np.generic]:
        """Rows by number, as they are stored."""
        return self.map_values()[which]


@dataclass(frozen=True)
class Experts(Weight):
    """The same matrix of each of a layer's experts, one above the other as llama.cpp has them; `path` and `offset` are the first one's."""

    experts: tuple[Weight, ...]

    def read_rows(self, which: NDArray[np.int64]) -> NDArray[np.generic]:
        """Matrices of experts by number."""
        return np.stack([self.experts[number].map_values() for number in which])


def read_weights(folder: Path) -> dict[str, Weight]:
    """{name: where it lies} for every tensor in the folder's safetensors files; those of experts under one name, without a number.

    Raises StageError if there is none, a file is not whole, or experts are missing.
    """
    found: dict[str, Weight] = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, tensor in read_header(path, f"{folder.name}/{path.name}").items():
            found[name] = Weight(path, tensor.dtype, tensor.shape, tensor.start)
    if not found:
        raise StageError(f"no safetensors in {folder.name}; the merge stage writes them")
    return join_experts(found, folder.name)


def join_experts(found: dict[str, Weight], folder: str) -> dict[str, Weight]:
    """The tensors with `...experts.0.w1.weight`, `...experts.1.w1.weight` and so on as one `...experts.w1.weight`."""
    whole: dict[str, Weight] = {}
    groups: dict[str, dict[int, Weight]] = {}
    for name, weight in found.items():
        if match := EXPERT.fullmatch(name):
            groups.setdefault(f"{match[1]}.{match[3]}", {})[int(match[2])] = weight
        else:
            whole[name] = weight
    count = max((max(group) + 1 for group in groups.values()), default=0)
    for name, group in groups.items():
        missing = sorted(set(range(count)) - group.keys())
        shapes = {(weight.dtype, weight.shape) for weight in group.values()}
        if missing or len(shapes) > 1:
            fault = (
                f"expert {missing[0]} of {count} is missing" if missing else "its experts have several shapes or types"
            )
            raise StageError(f"{folder} holds {name} for each expert, but {fault}; make it again")
        first = group[0]
        ordered = tuple(group[number] for number in range(count))
        whole[name] = Experts(first.path, first.dtype, (count, *first.shape), first.offset, ordered)
    return whole
