"""GGUF files as the gguf package reads them, and with the types that it does not know yet: tensors and metadata."""

import logging
from functools import cache
from pathlib import Path
from typing import Any

from stages.llama_cpp.fast_gguf_reader import open_quickly
from stages.llama_cpp.tensor_types import Hparams

NEWER_TYPES = {"Q2_0": (42, 64, 2 + 64 // 4)}
"""{ggml's type: (its number, values in a block, bytes of a block)} that llama.cpp writes and gguf 0.19 does not read."""


def open_gguf(path: Path) -> Any:  # noqa: ANN401 - gguf ships no types
    """A gguf.GGUFReader; its tensors are memory-mapped."""
    logging.getLogger("gguf").setLevel(logging.WARNING)  # it tells each file's whole path
    teach_newer_types()
    return open_quickly(path)


@cache
def teach_newer_types() -> None:
    """Make NEWER_TYPES known to the gguf package, once: its enumeration asks `_missing_` for a number that it does not have."""
    import gguf

    kinds = gguf.GGMLQuantizationType
    known = {kind.value for kind in kinds}
    newer = {}
    for name, (number, block, size) in NEWER_TYPES.items():
        if number not in known:
            kind = int.__new__(kinds, number)
            kind._name_, kind._value_ = name, number
            gguf.GGML_QUANT_SIZES[kind] = (block, size)
            newer[number] = kind
    kinds._missing_ = classmethod(lambda _, value: newer.get(value))


def read_architecture(reader: Any) -> str:  # noqa: ANN401 - gguf.GGUFReader
    """`general.architecture` of an open GGUF file."""
    return str(read_metadata(reader, "general.architecture"))


def read_metadata(reader: Any, key: str) -> Any:  # noqa: ANN401 - what a GGUF file may hold
    """One value of an open GGUF file's metadata; None where it is not there."""
    field = reader.get_field(key)
    return None if field is None else field.contents()


def read_hparams(reader: Any) -> Hparams:  # noqa: ANN401 - gguf.GGUFReader
    """The hyperparameters of the model in an open GGUF file, from its metadata."""
    name = read_architecture(reader)
    heads = first(read_metadata(reader, f"{name}.attention.head_count"))
    return Hparams(
        architecture=name,
        layers=int(read_metadata(reader, f"{name}.block_count") or 0),
        heads=heads,
        key_value_heads=first(read_metadata(reader, f"{name}.attention.head_count_kv")) or heads,
        experts=int(read_metadata(reader, f"{name}.expert_count") or 0),
    )


def first(value: int | list[int] | None) -> int:
    """The number, or the first of a number for each layer."""
    if isinstance(value, list):
        return int(value[0])
    return int(value or 0)
