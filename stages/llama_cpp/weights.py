"""The tensors of a transformers folder, where they lie in its safetensors files: read one at a time, without PyTorch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.errors import StageError

STORED: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
"""safetensors' dtypes -> how NumPy can look at them; BF16 as the upper half of a float32."""


@dataclass(frozen=True)
class Weight:
    """One tensor in one safetensors file."""

    path: Path
    dtype: str
    """safetensors' name of it."""
    shape: tuple[int, ...]
    offset: int
    """Of its first byte in the file."""

    def stored(self) -> NDArray[np.generic]:
        """The values as they are stored, memory-mapped; BF16 as uint16."""
        values: NDArray[np.generic] = np.memmap(
            self.path, dtype=STORED[self.dtype], mode="r", offset=self.offset, shape=self.shape
        )
        return values


def weights(folder: Path) -> dict[str, Weight]:
    """{name: where it lies} for every tensor in the folder's safetensors files.

    Raises StageError if there is none, or a file is not whole.
    """
    found: dict[str, Weight] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            size = path.stat().st_size
            if header_bytes > size:
                raise StageError(f"{folder.name}/{path.name} is no whole safetensors file; make it again")
            header = json.loads(file.read(header_bytes))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            if 8 + header_bytes + end > size:
                raise StageError(f"{folder.name}/{path.name} is cut off within {name}; make it again")
            found[name] = Weight(path, entry["dtype"], tuple(entry["shape"]), 8 + header_bytes + begin)
    if not found:
        raise StageError(f"no safetensors in {folder.name}; the merge stage writes them")
    return found
