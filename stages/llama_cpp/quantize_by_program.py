"""What the mixes here do not know, made by llama-quantize: its file's tensors, type by type."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.llama_cpp.gguf_reader import open_gguf
from stages.llama_cpp.programs import find_or_build, run_program
from stages.llama_cpp.tensor_types import TensorType

FELL_BACK = re.compile(
    r"^warning: (\S+)\s+- ncols\s+\d+ not divisible by\s+\d+ \(required for type\s+(\S+)\)", re.MULTILINE
)


@dataclass(frozen=True)
class QuantizedFile:
    """A file that llama-quantize wrote."""

    reader: Any
    """gguf.GGUFReader of it."""
    types: Mapping[str, TensorType]
    """In the order of the file."""


def run_llama_quantize(
    source: Path, quantization: str, imatrix: Path | None, threads: int, folder: Path
) -> QuantizedFile:
    """Quantize a file with llama-quantize.

    Args:
        source: a GGUF file with F32, F16 or BF16 tensors.
        quantization: any name of `quantization_names.QUANTIZATIONS`.
        imatrix: the file of an importance matrix.
        threads: for the kernels. They change no byte.
        folder: to put the file into.

    Raises:
        StageError: there is no llama-quantize and none can be built, or it fails.
    """
    target, log = folder / f"{quantization}.gguf", folder / f"{quantization}.log"
    given: list[str | Path] = ["--imatrix", imatrix] if imatrix else []
    command: list[str | Path] = [
        find_or_build("llama-quantize"),
        *given,
        source,
        target,
        quantization.upper(),
        str(threads),
    ]
    run_program(command, log, f"quantizing to {quantization}", f"llama-quantize failed to make {quantization}")
    wanted = dict(FELL_BACK.findall(log.read_text(encoding="utf-8", errors="replace")))
    reader = open_gguf(target)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    return QuantizedFile(
        reader, {name: TensorType(kind, wanted.get(name, kind).upper()) for name, kind in kinds.items()}
    )
