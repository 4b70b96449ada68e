"""Which type each tensor of a quantized file gets: llama.cpp's choice, for dense models in the form of Llama.

A quantization's name stands for a mix. q4_k_m, for one, is Q4_K with Q6_K for the output matrix and for the value and down
projections of the layers that suffer most. The rules are those of `llama_tensor_get_type` (src/llama-quant.cpp), which are others
where there is an importance matrix; a slow test holds them to a real llama-quantize. What is left out is what would need more of
them and goes to llama-quantize itself: experts, Falcon, and the mixes of `quantization_names.OTHERS`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stages.llama_cpp.quantization_names import OURS

BLOCK = {
    "F32": 1, "F16": 1, "BF16": 1, "Q4_0": 32, "Q4_1": 32, "Q5_0": 32, "Q5_1": 32, "Q8_0": 32, "IQ4_NL": 32,
    "Q3_K": 256, "Q4_K": 256, "Q5_K": 256, "Q6_K": 256,
}  # fmt: skip
"""Values in one block of a type: a row must be whole blocks."""
UNQUANTIZED = ("F32", "F16", "BF16")
FALLBACK = {"Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""What takes the place of a type whose blocks of 256 do not divide a row; if blocks of 32 do not either, F16 does."""


@dataclass(frozen=True)
class Hparams:
    """A model's hyperparameters (llama.cpp's hparams) that the choice of types depends on, beside the tensors' own names and shapes."""

    architecture: str
    layers: int
    heads: int
    key_value_heads: int
    experts: int

    @property
    def shared_heads(self) -> int:
        """Query heads to one key-value head."""
        return self.heads // max(1, self.key_value_heads)


@dataclass(frozen=True)
class TensorType:
    """The type that one tensor of a quantized file gets."""

    kind: str
    """The type it gets."""
    wanted: str
    """The type that the mix names; another than `kind` where the tensor's rows do not allow it."""


def covers(quantization: str, hparams: Hparams) -> bool:
    """Whether the rules here are enough for a quantization of a model: those of one type for all matrices are for every model."""
    dense = hparams.experts == 0 and hparams.architecture != "falcon"
    return quantization in OURS and (dense or OURS[quantization].default in (*UNQUANTIZED, "Q8_0"))


def choose_types(
    quantization: str, tensors: Mapping[str, tuple[Sequence[int], str]], hparams: Hparams, *, imatrix: bool = False
) -> dict[str, TensorType]:
    """The type of every tensor.

    Args:
        quantization: one that `covers` this model.
        tensors: {name in the GGUF file: (shape as NumPy gives it, rows last but one; type in the 16-bit file)}.
        hparams: of the model.
        imatrix: whether there is an importance matrix.

    Returns:
        {name: TensorType} in the order in which llama.cpp goes through (and writes) them: what is in no layer first, then layer
        by layer, by name.
    """
    order = sorted(tensors, key=layer_order)
    tied = "output.weight" not in tensors
    values = [name for name in order if is_value_projection(name)]
    downs = [name for name in order if is_down_projection(name)]
    chosen: dict[str, TensorType] = {}
    for name in order:
        dims, kind = tensors[name]
        if not is_quantized(name, len(dims)):
            chosen[name] = TensorType(kind, kind)
            continue
        wanted = OURS[quantization].default
        if wanted not in UNQUANTIZED:
            if name == "output.weight" or (tied and name == "token_embd.weight"):
                wanted = output_type(wanted, dims[-1])
            elif is_value_projection(name):
                wanted = value_type(quantization, wanted, values.index(name), len(values), hparams)
            elif is_down_projection(name):
                wanted = down_type(quantization, wanted, downs.index(name), hparams.layers, imatrix=imatrix)
            elif "attn_output.weight" in name and quantization == "q3_k_m":
                wanted = "Q4_K"
        chosen[name] = TensorType(fitting_type(wanted, dims[-1]), wanted)
    return chosen


def layer_order(name: str) -> tuple[int, str]:
    """llama.cpp's order of tensors: by layer, then by name; those in no layer come first."""
    found = re.match(r"blk\.(\d+)\.", name)
    return (int(found.group(1)) if found else -1, name)


def is_quantized(name: str, dims: int) -> bool:
    """Whether a tensor is quantized at all: matrices are, norms, biases and small tables are not."""
    kept = ("_norm.weight", "ffn_gate_inp.weight", "altup", "laurel", "per_layer_model_proj", "attn_rel_b.weight")
    others = ("position_embd.weight", "token_types.weight")
    return dims >= 2 and name.endswith("weight") and name not in others and not any(part in name for part in kept)  # noqa: PLR2004 - a matrix


def is_value_projection(name: str) -> bool:
    """The value projection, alone or within one matrix of query, key and value."""
    return "attn_v.weight" in name or "attn_qkv.weight" in name


def is_down_projection(name: str) -> bool:
    """The feed-forward layer's second matrix."""
    return "ffn_down" in name


def output_type(default: str, columns: int) -> str:
    """The matrix that gives the logits (or the embeddings, where they are that matrix) is kept finer."""
    return "Q8_0" if default == "Q8_0" or columns % BLOCK[default] else "Q6_K"


def value_type(quantization: str, default: str, index: int, count: int, hparams: Hparams) -> str:
    """The value projection of the `index`-th of `count` layers."""
    kind = default
    if quantization == "q3_k_m":
        kind = "Q5_K" if index < 2 else "Q4_K"  # noqa: PLR2004 - llama.cpp's rule
    elif quantization == "iq4_nl" and hparams.shared_heads >= 4:  # noqa: PLR2004 - llama.cpp's rule
        kind = "Q5_K"
    elif quantization in ("q4_k_m", "q5_k_m") and needs_more_bits(index, count):
        kind = "Q6_K"
    elif quantization == "q4_k_s" and index < 4:  # noqa: PLR2004 - llama.cpp's rule
        kind = "Q5_K"
    # A 70B Llama has eight query heads to a value head, so finer values cost it little.
    is_70b = hparams.architecture == "llama" and hparams.layers == 80 and hparams.heads != hparams.key_value_heads  # noqa: PLR2004 - its layers
    return "Q5_K" if is_70b and kind in ("Q3_K", "Q4_K") else kind


def down_type(quantization: str, default: str, index: int, layers: int, *, imatrix: bool) -> str:
    """The down projection of the `index`-th layer."""
    first_eighth = index < layers // 8
    if quantization == "q3_k_m":
        return "Q5_K" if index < layers // 16 else "Q4_K"
    if quantization in ("q4_k_m", "q5_k_m") and needs_more_bits(index, layers):
        return "Q6_K"
    if first_eighth and (quantization == "q4_k_s" or (quantization == "iq4_nl" and not imatrix)):
        return "Q5_K"
    if first_eighth and quantization == "q4_0" and imatrix:
        return "Q4_1"
    return default


def needs_more_bits(index: int, layers: int) -> bool:
    """Whether a layer is among the first or last eighth, or every third between them."""
    return index < layers // 8 or index >= 7 * layers // 8 or (index - layers // 8) % 3 == 2  # noqa: PLR2004 - llama.cpp's rule


def fitting_type(wanted: str, columns: int) -> str:
    """The wanted type where its blocks divide a row of `columns` values, else llama.cpp's fallback."""
    if columns % BLOCK[wanted] == 0:
        return wanted
    coarser = FALLBACK.get(wanted)
    return coarser if coarser and columns % BLOCK[coarser] == 0 else "F16"
