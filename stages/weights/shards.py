"""Safetensors files tensor by tensor, with plain reads and writes: of a mapped file every page that was touched would count as memory."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.errors import StageError
from stages.models.safetensors_header import StoredTensor, read_header

if TYPE_CHECKING:
    import torch

FLOATS = ("F64", "F32", "F16", "BF16")
"""Types whose values can be calculated with as they are; a file of other types is quantized by somebody."""
COPY_BYTES = 1 << 24
WAITING = 2
"""Blocks that wait to be written while the next one is made."""


def read_headers(files: Iterable[Path]) -> dict[str, StoredTensor]:
    """{name: tensor} of several files. Raises StageError if two of them hold the same name."""
    found: dict[str, StoredTensor] = {}
    for file in files:
        here = read_header(file)
        if twice := here.keys() & found.keys():
            raise StageError(f"{file} and {found[min(twice)].file.name} both hold {min(twice)}: which one counts?")
        found |= here
    return found


def read_rows(tensor: StoredTensor, first: int = 0, last: int | None = None) -> "torch.Tensor":
    """Rows `first` to `last` of a tensor (all of them, or all of one without dimensions) in its own dtype, in memory of its own."""
    import torch

    rows = tensor.shape[0] if tensor.shape else 1
    last = rows if last is None else min(last, rows)
    row_bytes = (tensor.stop - tensor.start) // rows if rows else 0
    data = torch.empty((last - first) * row_bytes, dtype=torch.uint8)
    with tensor.file.open("rb", buffering=0) as handle:
        handle.seek(tensor.start + first * row_bytes)
        read_into(handle.fileno(), memoryview(data.numpy()))
    shape = (last - first, *tensor.shape[1:]) if tensor.shape else ()
    return data.view(torch_dtype(tensor)).reshape(shape)


def read_into(handle: int, view: memoryview) -> None:
    """Fill `view` from a file; one call of the system gives 2 GiB at most."""
    done = 0
    while done < len(view):
        got = os.readv(handle, [view[done : done + (1 << 30)]])
        if not got:
            raise StageError("a weights file became shorter while it was read; run it again")
        done += got


def torch_dtype(tensor: StoredTensor) -> "torch.dtype":
    """A tensor's dtype. Raises StageError for types in which nothing can be calculated."""
    import torch

    dtypes = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    if tensor.dtype not in dtypes:
        raise StageError(f"{tensor.file.name} holds weights of type {tensor.dtype}: fetch a base in 16 or 32 bit")
    return dtypes[tensor.dtype]


def read_blocks(tensor: StoredTensor) -> Iterator[bytes]:
    """A tensor's bytes as they are."""
    with tensor.file.open("rb", buffering=0) as handle:
        handle.seek(tensor.start)
        left = tensor.stop - tensor.start
        while left:
            block = handle.read(min(COPY_BYTES, left))
            left -= len(block)
            yield block


def write_shard(
    target: Path, shapes: Mapping[str, tuple[str, tuple[int, ...], int]], blocks: Iterable["bytes | torch.Tensor"]
) -> str:
    """Write a safetensors file from blocks of bytes; its sha256.

    Args:
        target: the file.
        shapes: {name: (dtype, shape, bytes)} in the order in which the blocks come.
        blocks: what the tensors hold, one after the other; a torch tensor stands for its bytes. Blocks are written and hashed
            while the next ones are made.

    Raises:
        ValueError: other bytes came than `shapes` says.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape, size) in shapes.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with target.open("wb", buffering=0) as handle, ThreadPoolExecutor(1) as pool:

        def put(block: "bytes | torch.Tensor") -> int:
            view = memoryview(block if isinstance(block, bytes) else as_bytes(block))
            done = 0
            while done < len(view):
                done += handle.write(view[done:])
            digest.update(view)
            return done

        put(len(text).to_bytes(8, "little") + text)
        waiting: list[Future[int]] = []
        written = 0
        for block in blocks:
            waiting.append(pool.submit(put, block))
            while len(waiting) > WAITING:
                written += waiting.pop(0).result()
        written += sum(future.result() for future in waiting)
    if written != end:
        msg = f"{target.name} got {written} bytes of tensors and should have {end}"
        raise ValueError(msg)
    return digest.hexdigest()


def as_bytes(tensor: "torch.Tensor") -> memoryview:
    """A tensor's bytes, not copied."""
    import torch

    return memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
