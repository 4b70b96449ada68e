"""Every quantization that can be asked for: the names of the pinned llama.cpp's quantizer, and who makes the file.

The one list of them. A slow test holds it to what a real llama-quantize says it knows, and which of them ask for an importance matrix.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Quantization:
    """A quantization that can be asked for."""

    file_type: int
    """`general.file_type` in the file (llama.cpp's `llama_ftype`)."""
    default: str
    """The type of what no rule of the mix names."""


OURS: dict[str, Quantization] = {
    "f32": Quantization(0, "F32"),
    "f16": Quantization(1, "F16"),
    "bf16": Quantization(32, "BF16"),
    "q8_0": Quantization(7, "Q8_0"),
    "q6_k": Quantization(18, "Q6_K"),
    "q5_k_m": Quantization(17, "Q5_K"),
    "q5_k_s": Quantization(16, "Q5_K"),
    "q4_k_m": Quantization(15, "Q4_K"),
    "q4_k_s": Quantization(14, "Q4_K"),
    "iq4_nl": Quantization(25, "IQ4_NL"),
    "q4_0": Quantization(2, "Q4_0"),
    "q3_k_m": Quantization(12, "Q3_K"),
}
"""Made here, with the kernels of the xllamacpp wheel and the mixes of stages/llama_cpp/tensor_types.py: they need no compiler."""

OTHERS: dict[str, Quantization] = {
    "q5_1": Quantization(9, "Q5_1"),
    "q5_0": Quantization(8, "Q5_0"),
    "q4_1": Quantization(3, "Q4_1"),
    "iq4_xs": Quantization(30, "IQ4_XS"),
    "q3_k_l": Quantization(13, "Q3_K"),
    "q3_k_s": Quantization(11, "Q3_K"),
    "iq3_m": Quantization(27, "IQ3_S"),
    "iq3_s": Quantization(26, "IQ3_S"),
    "iq3_xs": Quantization(22, "IQ3_S"),
    "iq3_xxs": Quantization(23, "IQ3_XXS"),
    "q2_k": Quantization(10, "Q2_K"),
    "q2_k_s": Quantization(21, "Q2_K"),
    "iq2_m": Quantization(29, "IQ2_S"),
    "iq2_s": Quantization(28, "IQ2_XS"),
    "iq2_xs": Quantization(20, "IQ2_XS"),
    "iq2_xxs": Quantization(19, "IQ2_XXS"),
    "q2_0": Quantization(41, "Q2_0"),
    "iq1_m": Quantization(31, "IQ1_M"),
    "iq1_s": Quantization(24, "IQ1_S"),
    "q1_0": Quantization(40, "Q1_0"),
    "tq2_0": Quantization(37, "TQ2_0"),
    "tq1_0": Quantization(36, "TQ1_0"),
    "mxfp4_moe": Quantization(38, "MXFP4"),
}
"""Made by llama-quantize (stages/llama_cpp/programs.py finds or builds it)."""

QUANTIZATIONS = OURS | OTHERS
ALIASES = {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m"}
"""llama-quantize's other names: not taken here, since two names for one file would be two files."""
NEEDS_IMATRIX = frozenset(
    ("q2_k_s", "iq1_m", "iq1_s", "iq2_m", "iq2_s", "iq2_xs", "iq2_xxs", "iq3_xs", "iq3_xxs")
)  # fmt: skip
"""Without an importance matrix llama.cpp refuses them: the result would be garbage."""
CLOSE = 0.8
"""How like a known name an unknown one must be to be told as meant: they are short and much alike."""
WITHOUT_IMATRIX = frozenset(("F32", "F16", "BF16", "Q8_0"))
"""Types whose kernels do not look at an importance matrix."""


def find_problems(names: Iterable[str], *, imatrix: bool) -> list[str]:
    """What is wrong with a list of quantizations, in words; `imatrix`: whether there will be an importance matrix."""
    asked = list(names)
    found = [describe_unknown(name) for name in dict.fromkeys(asked) if name not in QUANTIZATIONS]
    twice = sorted({name for name in asked if asked.count(name) > 1})
    if twice:
        found.append(f"named twice: {', '.join(twice)}")
    need = [name for name in dict.fromkeys(asked) if name in NEEDS_IMATRIX]
    if need and not imatrix:
        found.append(
            f"{', '.join(need)} {'needs' if len(need) == 1 else 'need'} an importance matrix, without which the file would answer with garbage: "
            "set `gguf.imatrix` to training_rows"
        )
    return found


def describe_unknown(name: str) -> str:
    """The words for a name that is not known."""
    if name.lower() in ALIASES:
        return f"{name} is llama.cpp's other name of {ALIASES[name.lower()]}; write that"
    near = difflib.get_close_matches(name.lower(), QUANTIZATIONS, n=1, cutoff=CLOSE)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"unknown quantization {name}{hint}; known: {', '.join(QUANTIZATIONS)}"
