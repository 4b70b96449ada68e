"""GGUF files as the gguf package reads them, and with the types that it does not know yet."""

import logging
from functools import cache
from pathlib import Path
from typing import Any

from stages.llama_cpp.fast_gguf_reader import quick_reader

NEWER_TYPES = {"Q2_0": (42, 64, 2 + 64 // 4)}
"""{ggml's type: (its number, values in a block, bytes of a block)} that llama.cpp writes and gguf 0.19 does not read."""


def open_gguf(path: Path) -> Any:  # noqa: ANN401 - gguf ships no types
    """A gguf.GGUFReader; its tensors are memory-mapped."""
    logging.getLogger("gguf").setLevel(logging.WARNING)  # it tells each file's whole path
    teach_newer_types()
    return quick_reader(path)


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
