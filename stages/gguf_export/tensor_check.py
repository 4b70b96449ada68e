"""Proof that a GGUF file holds the merged model's tensors: all of them, in their shapes, with their values.

Neither the converter nor llama-quantize says so: both end well on a folder that lacks a tensor.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.core.errors import StageError
from stages.gguf_export.folder_tensors import Weight
from stages.llama_cpp.gguf_reader import read_architecture, read_hparams, read_metadata
from stages.llama_cpp.library import DEQUANTIZERS, load_library
from stages.llama_cpp.quantize import as_float32
from stages.llama_cpp.tensor_types import Hparams

ROWS_AT_ONCE = 1 << 21
"""Values compared at once."""
ADDED_BY_CONVERTER = {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}
"""What the converter works out from config.json: no tensors of the folder."""
UNUSED = (".attention.masked_bias", ".attention.bias", ".rotary_emb.inv_freq")
"""What the converter leaves out, since llama.cpp computes it."""
ROUNDING = {
    "F32": 0.0, "F16": 0.002, "BF16": 0.016, "Q8_0": 0.03, "Q6_K": 0.08, "Q5_K": 0.15, "Q5_0": 0.18, "Q5_1": 0.18,
    "Q4_K": 0.3, "Q4_0": 0.4, "Q4_1": 0.4, "IQ4_NL": 0.35, "IQ4_XS": 0.35, "MXFP4": 0.5, "Q3_K": 0.6, "IQ3_S": 0.6, "IQ3_XXS": 0.8,
    "Q2_K": 0.95, "IQ2_S": 0.95, "IQ2_XS": 0.95, "IQ2_XXS": 0.95, "Q2_0": 0.95, "IQ1_M": 0.95, "IQ1_S": 0.95, "Q1_0": 0.95,
    "TQ2_0": 0.98, "TQ1_0": 0.98,
}  # fmt: skip
"""The largest error that rounding to a type explains, as a share of a row's size: four times what a normal distribution shows, and
less than 1, which zeros would have (another row of the matrix: more than 1)."""
WITH_IMATRIX = 3.0
"""How much larger it may be, but for COARSEST, by an importance matrix: columns that are not used are left coarse."""
COARSEST = 0.95
SMALL_ROW = 0.1
"""Rows below this share of the tensor's mean row size are judged as if they had it: their block scales may be too small for 16 bits."""


def verify_conversion(reader: Any, weights: Mapping[str, Weight]) -> None:  # noqa: ANN401 - gguf.GGUFReader
    """Raise StageError unless an unquantized GGUF file holds exactly the folder's tensors, value for value."""
    hparams = read_hparams(reader)
    found = {tensor.name: tensor for tensor in reader.tensors}
    expected = names_in_file(read_architecture(reader), hparams.layers, weights)
    if "output.weight" not in found and "output.weight" in expected:
        # Tied: the folder may hold the matrix twice, the file holds it once.
        if not equal_weights(weights[expected["output.weight"]], weights[expected["token_embd.weight"]]):
            raise StageError(
                "the GGUF file lacks output.weight (lm_head), which is not the embedding matrix; is tie_word_embeddings right in config.json?"
            )
        del expected["output.weight"]
    missing = sorted(expected.keys() - found.keys())
    extra = sorted(found.keys() - expected.keys() - ADDED_BY_CONVERTER)
    if missing or extra:
        parts = [f"lacks {', '.join(missing)}" if missing else "", f"has {', '.join(extra)} too many" if extra else ""]
        raise StageError(
            f"the converted file {' and '.join(filter(None, parts))}; the merged folder and its config.json do not belong together"
        )
    lacking = sorted(required_tensors(hparams, found) - found.keys())
    if lacking:
        raise StageError(
            f"the merged model lacks {', '.join(lacking[:5])}{' ...' if lacking[5:] else ''} (names as in the GGUF file); merge again"
        )
    for name, source in expected.items():
        weight, tensor = weights[source], found[name]
        if tuple(tensor.shape[::-1].tolist()) != weight.shape:
            raise StageError(
                f"{name} has the shape {tensor.shape[::-1].tolist()} in the GGUF file and {list(weight.shape)} in the merged model"
            )
        if not same_values(name, tensor, weight, hparams):
            raise StageError(f"{name} has other values in the GGUF file than {source} in the merged model")


def names_in_file(name: str, layers: int, weights: Mapping[str, Weight]) -> dict[str, str]:
    """{name in the GGUF file: name in the folder}. Raises StageError for a tensor that llama.cpp has no name for."""
    import gguf

    kinds = {text: kind for kind, text in gguf.MODEL_ARCH_NAMES.items()}
    if name not in kinds:
        raise StageError(
            f"the installed gguf package does not know the architecture {name}; `make setup` installs the right one"
        )
    table = gguf.get_tensor_name_map(kinds[name], layers)
    mapped: dict[str, str] = {}
    for source in weights:
        if source.endswith(UNUSED):
            continue
        target = table.get_name(source, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise StageError(
                f"the merged model holds {source}, which llama.cpp has no name for: is it a plain {name} model?"
            )
        mapped[target] = source
    return mapped


def required_tensors(hparams: Hparams, found: Mapping[str, Any]) -> set[str]:
    """What a model must hold: the embeddings, the last norm, and in each layer what any layer of its kind (dense, with experts) holds."""
    layers: list[set[str]] = [set() for _ in range(hparams.layers)]
    for name in found:
        if name.startswith("blk."):
            _, layer, part = name.split(".", 2)
            layers[int(layer)].add(part)
    with_experts = [any("_exps." in part for part in layer) for layer in layers]
    needed = {
        kind: set().union(*(layer for layer, is_kind in zip(layers, with_experts, strict=True) if is_kind == kind))
        for kind in (True, False)
    }
    return {"token_embd.weight", "output_norm.weight"} | {
        f"blk.{number}.{part}" for number, kind in enumerate(with_experts) for part in needed[kind]
    }


def same_values(name: str, tensor: Any, weight: Weight, hparams: Hparams) -> bool:  # noqa: ANN401 - gguf.ReaderTensor
    """Whether a tensor is the weight as it stands, or as llama.cpp's converter rearranges it.

    It interleaves the rows of a Llama's query and key matrices (another form of rotary embedding), and adds one to Gemma's norms.
    Raises StageError for values that are no finite numbers.
    """
    rows = weight.shape[0]
    order = row_order(name, rows, hparams)
    more = 1.0 if hparams.architecture.startswith("gemma") and name.endswith("norm.weight") else 0.0
    for part in parts(rows, int(np.prod(weight.shape[1:], dtype=np.int64))):
        there = as_float32(tensor.data[part]).reshape(-1)
        stored = weight.read_rows(order[part])
        ours = as_float32(np.ascontiguousarray(stored).view(np.uint8) if weight.dtype == "BF16" else stored).reshape(-1)
        if not np.isfinite(ours).all():
            raise StageError(
                f"{name} holds values that are no finite numbers in the merged model; train or merge again"
            )
        if not np.array_equal(there, ours + np.float32(more)):
            return False
    return True


def row_order(name: str, rows: int, hparams: Hparams) -> NDArray[np.int64]:
    """The rows of a folder's matrix in the order that the file has them in; `name` is the file's."""
    order = np.arange(rows)
    if hparams.architecture == "llama" and (".attn_q." in name or ".attn_k." in name):
        heads = hparams.heads if ".attn_q." in name else hparams.key_value_heads
        order = order.reshape(heads, 2, rows // heads // 2).swapaxes(1, 2).reshape(-1)
    return order


def equal_weights(one: Weight, other: Weight) -> bool:
    """Whether two weights of the folder are bit for bit the same."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return all(
        np.array_equal(one.map_values()[part], other.map_values()[part])
        for part in parts(one.shape[0], int(np.prod(one.shape[1:], dtype=np.int64)))
    )


def verify_quantized(reader: Any, source: Any, threads: int) -> None:  # noqa: ANN401 - gguf.GGUFReader
    """Raise StageError unless a quantized file holds every tensor of the unquantized one, as near to it as its type allows.

    A file that says that it was made with an importance matrix may be further from it in unimportant columns.
    """
    found = {tensor.name: tensor for tensor in reader.tensors}
    origin = {tensor.name: tensor for tensor in source.tensors}
    if found.keys() != origin.keys():
        raise StageError(
            f"the quantized file lacks {', '.join(sorted(origin.keys() - found.keys())) or 'nothing'} of the converted one"
        )
    unknown = sorted({tensor.tensor_type.name for tensor in found.values()} - ROUNDING.keys())
    if unknown:
        raise StageError(
            f"the quantized file holds tensors of the type {', '.join(unknown)}, which cannot be checked here"
        )
    slack = WITH_IMATRIX if read_metadata(reader, "quantize.imatrix.file") is not None else 1.0
    with ThreadPoolExecutor(threads) as pool:
        for name, bad in zip(
            origin, pool.map(lambda name: distant_rows(found[name], origin[name], slack), origin), strict=True
        ):
            if bad:
                kind = found[name].tensor_type.name
                raise StageError(
                    f"{name} differs from the merged model in {bad} rows by more than rounding to {kind} explains; the file is not what was trained"
                )


def distant_rows(tensor: Any, origin: Any, slack: float) -> int:  # noqa: ANN401 - gguf.ReaderTensor
    """How many rows of a tensor are further from the unquantized one's than its type explains, or `slack` times as far."""
    columns = int(origin.shape[0])
    rows = int(np.prod(origin.shape[1:], dtype=np.int64))
    if tensor.shape.tolist() != origin.shape.tolist():
        return rows
    # matrices of experts lie one above the other
    stored, exact = tensor.data.reshape(rows, -1), origin.data.reshape(rows, -1)
    if tensor.tensor_type == origin.tensor_type:
        return sum(int((stored[part] != exact[part]).any(axis=1).sum()) for part in parts(rows, columns))
    error, size = np.empty(rows), np.empty(rows)
    for part in parts(rows, columns):
        ours = as_float32(exact[part]).reshape(-1, columns)
        there = dequantize(stored[part], tensor.tensor_type.name, columns)
        error[part] = np.square(there - ours, dtype=np.float64).mean(axis=1) ** 0.5
        size[part] = np.square(ours, dtype=np.float64).mean(axis=1) ** 0.5
    share = ROUNDING[tensor.tensor_type.name]
    allowed = max(share, min(slack * share, COARSEST)) * np.maximum(size, SMALL_ROW * size.mean())
    return int((~(error <= allowed)).sum())


def dequantize(stored: NDArray[np.generic], kind: str, columns: int) -> NDArray[np.float32]:
    """The values of rows of a type, by ggml's own kernel; shape [rows, columns]."""
    if kind not in DEQUANTIZERS:
        return as_float32(stored).reshape(-1, columns)
    stored = np.ascontiguousarray(stored)
    values = np.empty((len(stored), columns), dtype=np.float32)
    getattr(load_library(), DEQUANTIZERS[kind])(stored.ctypes.data, values.ctypes.data, values.size)
    return values


def parts(rows: int, columns: int) -> Iterator[slice]:
    """Slices of rows that bound the memory."""
    step = max(1, ROWS_AT_ONCE // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, start + step)
