"""An importance matrix's file, in llama.cpp's format: how strongly each column of a matrix was used, in mean squares.

For each matrix NAME of a model two tensors: NAME.in_sum2, the sums over tokens of the squares of what it was multiplied with, float32,
one for each column; and NAME.counts, the tokens. Whoever quantizes weighs a column's rounding by sum / count.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.core.errors import StageError
from stages.llama_cpp.gguf_reader import open_gguf

DATASET = "training rows"
"""What the file says it was computed over."""
SUMS, COUNTS = ".in_sum2", ".counts"


@dataclass(frozen=True)
class Importance:
    """An importance matrix, ready for the kernels."""

    columns: Mapping[str, NDArray[np.float32]]
    """{matrix: mean square of each column's input}."""
    metadata: Mapping[str, str | int]
    """What a file quantized with it says of it: llama-quantize's keys."""


def write_importance(
    path: Path, sums: Mapping[str, NDArray[np.float64]], tokens: int, rows: int, says: Mapping[str, str | int | bool]
) -> None:
    """Write an importance matrix.

    Args:
        path: the file.
        sums: {name of a matrix in the GGUF file: sums of squares, shape [columns]}.
        tokens: that the sums are over, the same for all.
        rows: sequences that the tokens are of; llama.cpp calls them chunks.
        says: further metadata: what made it.

    Raises:
        StageError: a sum is no finite number.
    """
    import gguf

    class Writer(gguf.GGUFWriter):  # type: ignore[misc]  # gguf ships no types
        def add_architecture(self) -> None:
            """Of none: llama.cpp writes no architecture into such a file."""

    writer: Any = Writer(path, "imatrix")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", [DATASET])
    writer.add_uint32("imatrix.chunk_count", rows)
    writer.add_uint32("imatrix.chunk_size", -(-tokens // rows))
    for key, value in says.items():
        (writer.add_string if isinstance(value, str) else writer.add_uint32)(key, value)
    for name, values in sorted(sums.items()):
        if not np.isfinite(values).all():
            raise StageError(f"the inputs of {name} hold values that are no finite numbers; train or merge again")
        writer.add_tensor(name + SUMS, values.astype(np.float32))
        writer.add_tensor(name + COUNTS, np.array([tokens], dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_importance(path: Path) -> Importance:
    """An importance matrix as llama-quantize reads it."""
    reader = open_gguf(path)
    tensors = {tensor.name: tensor.data.reshape(-1) for tensor in reader.tensors}
    names = [name.removesuffix(SUMS) for name in tensors if name.endswith(SUMS)]
    return Importance(
        columns={name: np.ascontiguousarray(tensors[name + SUMS] / tensors[name + COUNTS]) for name in names},
        metadata={
            "quantize.imatrix.file": path.name,
            "quantize.imatrix.dataset": reader.get_field("imatrix.datasets").contents()[0],
            "quantize.imatrix.entries_count": len(names),
            "quantize.imatrix.chunks_count": int(reader.get_field("imatrix.chunk_count").contents()),
        },
    )
