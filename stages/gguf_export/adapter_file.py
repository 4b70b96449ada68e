"""The adapter alone as a GGUF file, and the proof that the base with it is the merged model.

llama.cpp adds B @ A times alpha / rank to what a matrix gives, with A and B from the file. Two things are easily got wrong: the rows
of a Llama's query and key matrices have another order there, and so B's must have; and alpha is all that is said of the scaling, so
with rsLoRA (alpha / sqrt(rank)) the file's alpha is not the training's. llama.cpp's own script (convert_lora_to_gguf.py) does not
look at the second; a slow test holds this file to it otherwise.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from stages.contracts import adapter as adapter_files
from stages.contracts import base as base_files
from stages.contracts import merged as merged_files
from stages.core.errors import StageError
from stages.core.files import read_json
from stages.gguf_export.tensor_check import parts, row_order
from stages.llama_cpp.quantize import Overrides, add_metadata, as_float32
from stages.llama_cpp.tensor_types import Hparams, layer_order
from stages.weights.folding import Update, read_update

STORED: dict[str, np.dtype[Any]] = {"f32": np.dtype(np.float32), "f16": np.dtype(np.float16)}
"""Types that the adapter's matrices can have in the file."""
ROUNDING = {"BF16": 2.0**-8, "F16": 2.0**-11, "F32": 2.0**-24}
"""The largest error of rounding to a type, as a share of the value."""
SMALLEST = 2.0**-14
"""Smaller values of F16 are rounded as this one is."""
SLACK = 1.01
"""The shares are of the value before rounding; what is at hand is the one after it."""


def read_adapter(adapter: Path, merged: Path) -> tuple[Update | None, str | None]:
    """The adapter as its file can hold it; or None, and why it cannot.

    Args:
        adapter: data/adapter.
        merged: data/merged, which it was folded into.
    """
    training: adapter_files.Training = read_json(adapter / adapter_files.TRAINING)
    update = read_update(adapter, training["embedding_rows"])
    marker: merged_files.Marker = read_json(merged / base_files.MERGED_MARKER)
    if update.magnitudes:
        return None, "it is a DoRA, whose lengths of rows a GGUF adapter cannot hold (train.lora.use_dora)"
    if update.whole:
        names = ", ".join(sorted(update.whole))
        return None, f"it holds {names} whole, and a GGUF adapter holds products alone (train.lora.modules_to_save)"
    if update.rows:
        return (
            None,
            f"{len(update.row_numbers)} rows of the embedding were trained with it, for the tokens that were added (template.missing_control_tokens), and a GGUF adapter cannot hold them",
        )
    if marker["into"] != "base16":
        return (
            None,
            "the merged model is the adapter on the dequantized NF4 base (merge.into), and over the 16-bit base it is another model",
        )
    return update, None


def write_lora(
    path: Path, update: Update, names: Mapping[str, str], hparams: Hparams, kind: str, name: str, says: Overrides
) -> None:
    """Write the adapter's file.

    Args:
        path: the file.
        update: a plain LoRA.
        names: {name in the GGUF file of the model: name in the folder}.
        hparams: of the model.
        kind: a key of STORED.
        name: `general.name`.
        says: what else the file's metadata says.
    """
    import gguf

    writer = gguf.GGUFWriter(path, hparams.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_name(name)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, update.scaling * rank(update))
    add_metadata(writer, says)
    for target in sorted(names, key=layer_order):
        if names[target] in update.low_rank:
            down, up = (matrix.numpy() for matrix in update.low_rank[names[target]])
            writer.add_tensor(f"{target}.lora_a", down.astype(STORED[kind]))
            writer.add_tensor(f"{target}.lora_b", up[row_order(target, len(up), hparams)].astype(STORED[kind]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def rank(update: Update) -> int:
    """Rows of A, columns of B: the same of every matrix."""
    down, _ = next(iter(update.low_rank.values()))
    return int(down.shape[0])


def verify_lora(lora: Any, base: Any, merged: Any, matrices: int, threads: int) -> None:  # noqa: ANN401 - gguf.GGUFReader
    """Raise StageError unless base + adapter is the merged model: each value, as near as the roundings that were made explain.

    Args:
        lora: the adapter's open file.
        base: the base's, unquantized.
        merged: the merged model's, unquantized.
        matrices: that the adapter changes.
        threads: to compare with.
    """
    pairs: dict[str, dict[str, Any]] = {}
    for tensor in lora.tensors:
        target, _, part = tensor.name.rpartition(".")
        pairs.setdefault(target, {})[part] = tensor
    theirs, ours = ({tensor.name: tensor for tensor in reader.tensors} for reader in (merged, base))
    if theirs.keys() != ours.keys() or len(pairs) != matrices or not pairs.keys() <= theirs.keys():
        raise StageError("the adapter's file, the base and the merged model do not have the same matrices; merge again")
    alpha = float(lora.get_field("adapter.lora.alpha").contents())

    def distant(name: str) -> int:
        if name in pairs:
            return distant_values(theirs[name], ours[name], pairs[name]["lora_a"], pairs[name]["lora_b"], alpha)
        return int(not np.array_equal(theirs[name].data, ours[name].data))

    with ThreadPoolExecutor(threads) as pool:
        for name, bad in zip(theirs, pool.map(distant, theirs), strict=True):
            if bad:
                raise StageError(
                    f"{name} of base + adapter differs from the merged model's by more than rounding explains ({bad} places); "
                    "merge again, and if it stays so, write the adapter in f32 (gguf.lora)"
                )


def distant_values(merged: Any, base: Any, down: Any, up: Any, alpha: float) -> int:  # noqa: ANN401 - gguf.ReaderTensor
    """Values of a merged matrix that are further from base + B @ A times alpha / rank than rounding explains."""
    a, b = down.data.astype(np.float32), up.data.astype(np.float32)
    scaling = np.float32(alpha / len(a))
    exact = ROUNDING[down.tensor_type.name] == ROUNDING["F32"]
    # of the product's own roundings: both of its factors', and those of adding it up
    share = np.float32((len(a) + 4) * ROUNDING["F32"] + (0 if exact else 2 * ROUNDING["F16"]))
    floor = np.float32(0 if exact else SMALLEST)
    size_a = np.maximum(np.abs(a), floor)
    bad = 0
    for part in parts(len(b), a.shape[1]):
        there, here = as_float32(merged.data[part]), as_float32(base.data[part])
        error = np.abs(here + scaling * (b[part] @ a) - there)
        allowed = share * scaling * (np.maximum(np.abs(b[part]), floor) @ size_a)
        allowed += np.float32(2 * ROUNDING["F32"]) * np.abs(here)
        size = np.maximum(np.abs(there), np.float32(SMALLEST if merged.tensor_type.name == "F16" else 0))
        allowed += np.float32(ROUNDING[merged.tensor_type.name]) * size
        # written so that NaN counts
        bad += int((~(error <= np.float32(SLACK) * allowed)).sum())
    return bad
