"""Whether safetensors files are whole: their headers, sizes and index, read without torch."""

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from stages.core.errors import StageError

LONGEST_HEADER = 100 * 2**20
"""Bytes; the format's own limit."""

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def check_weights(path: Path, name: str) -> Collection[str]:
    """The names of a safetensors file's tensors. Raises StageError unless its header is right and its length is what the header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(LONGEST_HEADER, size - 8):
            raise StageError(f"{name} is not a safetensors file, or is cut off")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise StageError(f"{name}: its header is damaged") from error
    if not isinstance(header, dict):
        raise StageError(f"{name}: its header is damaged")
    tensors = {key: entry for key, entry in header.items() if key != "__metadata__"}
    end = 0
    for start, stop in sorted(span(entry, name) for entry in tensors.values()):
        if start != end:
            raise StageError(f"{name}: its tensors overlap or leave gaps, so it is damaged")
        end = stop
    if 8 + length + end != size:
        raise StageError(
            f"{name} has {size} bytes and should have {8 + length + end}: cut off, or something is appended. Fetch it again."
        )
    return tensors.keys()


def span(entry: Any, name: str) -> tuple[int, int]:  # noqa: ANN401 - unchecked JSON
    """(first byte, byte after the last) of a tensor within the data. Raises StageError if it does not fit its type and shape."""
    try:
        start, stop = entry["data_offsets"]
        count = math.prod(entry["shape"])
        right = 0 <= start <= stop and stop - start == count * BYTES.get(entry["dtype"], (stop - start) / (count or 1))
    except (TypeError, KeyError, ValueError) as error:
        raise StageError(f"{name}: its header is damaged") from error
    if not right:
        raise StageError(f"{name}: a tensor's size does not fit its type and shape, so it is damaged")
    return start, stop


def check_shards(name: str, weight_map: Mapping[str, str], headers: Mapping[str, Collection[str]]) -> None:
    """Raise StageError unless every tensor of the index is in the file that it names."""
    missing = sum(tensor not in headers[shard] for tensor, shard in weight_map.items())
    if missing:
        raise StageError(
            f"{name}: {missing} of the index's {len(weight_map)} tensors are not in the files it names: from different versions?"
        )
