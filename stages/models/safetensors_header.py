"""The header of a safetensors file: which tensors it holds and where their bytes lie. Read without torch; nothing else reads headers."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.core.errors import StageError

LONGEST_HEADER = 100 * 2**20
"""Bytes; the format's own limit."""

LENGTH_BYTES = 8
"""Before the header: its length, little-endian."""

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""Of a value of each type; of a type that is not here any size is taken as right."""

AGAIN = "Fetch or make it again."


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies."""

    file: Path
    dtype: str
    """As the format writes it: BF16, F32 ..."""
    shape: tuple[int, ...]
    start: int
    """First byte in the file."""
    stop: int
    """Byte after the last."""


def read_header(file: Path, name: str | None = None) -> dict[str, StoredTensor]:
    """{tensor name: where it lies} of a file, in the order of its bytes.

    Args:
        file: a safetensors file.
        name: what an error calls it; None: its path.

    Raises:
        StageError: the header is damaged, or the file is not as long as it says.
    """
    said, size = name or str(file), file.stat().st_size
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(LENGTH_BYTES), "little")
        if not 0 < length <= min(LONGEST_HEADER, size - LENGTH_BYTES):
            raise StageError(f"{said} is not a safetensors file, or is cut off. {AGAIN}")
        try:
            header = json.loads(handle.read(length))
        except (ValueError, RecursionError) as error:
            raise StageError(f"{said}: its header is damaged. {AGAIN}") from error
    if not isinstance(header, dict):
        raise StageError(f"{said}: its header is damaged. {AGAIN}")
    first = LENGTH_BYTES + length
    tensors = {key: read_entry(file, entry, first, said) for key, entry in header.items() if key != "__metadata__"}
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop, item[0])))
    end = first
    for tensor in ordered.values():
        if tensor.start != end:
            raise StageError(f"{said}: its tensors overlap or leave gaps, so it is damaged. {AGAIN}")
        end = tensor.stop
    if end != size:
        raise StageError(
            f"{said} is cut off, or something is appended: it has {size} bytes and should have {end}. {AGAIN}"
        )
    return ordered


def read_entry(file: Path, entry: Any, first: int, said: str) -> StoredTensor:  # noqa: ANN401 - unchecked JSON
    """A tensor's entry of the header; `first` is where the file's data begin. Raises StageError if it does not fit its type and shape."""
    try:
        start, stop = entry["data_offsets"]
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        count = math.prod(shape)
        right = 0 <= start <= stop and stop - start == count * BYTES.get(dtype, (stop - start) / (count or 1))
        found = StoredTensor(file, dtype, shape, first + start, first + stop)
    except (TypeError, KeyError, ValueError) as error:
        raise StageError(f"{said}: its header is damaged. {AGAIN}") from error
    if not right:
        raise StageError(f"{said}: a tensor's size does not fit its type and shape, so it is damaged. {AGAIN}")
    return found
