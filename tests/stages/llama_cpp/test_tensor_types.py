# ruff: noqa: S105 - tensors, no passwords
import pytest

from stages.llama_cpp.quantization_names import OTHERS, OURS
from stages.llama_cpp.tensor_types import Hparams, choose_types, covers

PARTS = {
    "attn_norm": (256,),
    "attn_q": (256, 256),
    "attn_k": (128, 256),
    "attn_v": (128, 256),
    "ffn_down": (256, 512),
    "ffn_up": (512, 256),
}


def tensors(layers: int, *, tied: bool = False, columns: int = 256) -> dict[str, tuple[list[int], str]]:
    found = {"token_embd.weight": ([1024, columns], "F16"), "output_norm.weight": ([columns], "F32")}
    if not tied:
        found["output.weight"] = ([1024, columns], "F16")
    for layer in range(layers):
        for part, dims in PARTS.items():
            found[f"blk.{layer}.{part}.weight"] = (list(dims), "F32" if len(dims) == 1 else "F16")
    return found


def shape(layers: int, *, experts: int = 0, heads: int = 4, kv_heads: int = 2) -> Hparams:
    return Hparams("llama", layers, heads, kv_heads, experts)


def kinds(quantization: str, found: dict[str, tuple[list[int], str]], model: Hparams) -> dict[str, str]:
    return {name: choice.kind for name, choice in choose_types(quantization, found, model).items()}


def test_q4_k_m_of_eight_layers_keeps_first_last_and_every_third_finer() -> None:
    chosen = kinds("q4_k_m", tensors(8), shape(8))
    finer = [layer for layer in range(8) if chosen[f"blk.{layer}.attn_v.weight"] == "Q6_K"]
    assert finer == [layer for layer in range(8) if chosen[f"blk.{layer}.ffn_down.weight"] == "Q6_K"] == [0, 3, 6, 7]
    assert {chosen[f"blk.{layer}.attn_q.weight"] for layer in range(8)} == {"Q4_K"}
    assert (chosen["output.weight"], chosen["token_embd.weight"], chosen["output_norm.weight"]) == (
        "Q6_K",
        "Q4_K",
        "F32",
    )


def test_tied_embeddings_get_the_type_of_the_output_matrix() -> None:
    assert kinds("q4_k_m", tensors(2, tied=True), shape(2))["token_embd.weight"] == "Q6_K"
    assert kinds("q8_0", tensors(2, tied=True), shape(2))["token_embd.weight"] == "Q8_0"


def test_layers_count_by_number_and_not_by_spelling() -> None:
    chosen = kinds("q4_k_s", tensors(16), shape(16))
    assert [layer for layer in range(16) if chosen[f"blk.{layer}.attn_v.weight"] == "Q5_K"] == [0, 1, 2, 3]
    assert [layer for layer in range(16) if chosen[f"blk.{layer}.ffn_down.weight"] == "Q5_K"] == [0, 1]


def test_iq4_nl_keeps_values_finer_only_where_four_heads_share_them() -> None:
    assert kinds("iq4_nl", tensors(2), shape(2))["blk.0.attn_v.weight"] == "IQ4_NL"
    assert kinds("iq4_nl", tensors(2), shape(2, heads=8, kv_heads=2))["blk.0.attn_v.weight"] == "Q5_K"


@pytest.mark.parametrize(
    ("quantization", "fallback"),
    [("q4_k_m", "Q5_0"), ("q5_k_m", "Q5_1"), ("q6_k", "Q8_0"), ("q3_k_m", "Q4_0"), ("q8_0", "Q8_0")],
)
def test_rows_that_are_no_whole_blocks_fall_back_as_llama_cpp_does(quantization: str, fallback: str) -> None:
    found = {
        "blk.0.attn_q.weight": ([192, 192], "F16"),
        "output.weight": ([10, 192], "F16"),
        "token_embd.weight": ([10, 192], "F16"),
    }
    chosen = choose_types(quantization, found, shape(1))
    assert chosen["blk.0.attn_q.weight"].kind == fallback
    assert chosen["output.weight"].kind == "Q8_0"
    assert (chosen["blk.0.attn_q.weight"].wanted != fallback) == (quantization != "q8_0")


def test_rows_that_no_block_divides_become_f16() -> None:
    found = {"blk.0.attn_q.weight": ([100, 100], "F32"), "output.weight": ([10, 256], "F32")}
    assert {
        quantization: kinds(quantization, found, shape(1))["blk.0.attn_q.weight"]
        for quantization in ("q8_0", "q4_k_m", "iq4_nl")
    } == dict.fromkeys(("q8_0", "q4_k_m", "iq4_nl"), "F16")


def test_mixes_of_models_with_experts_are_not_covered_and_single_types_are() -> None:
    assert covers("q4_k_m", shape(1))
    assert [name for name in OURS if covers(name, shape(1, experts=8))] == ["f32", "f16", "bf16", "q8_0"]
    assert not any(covers(name, shape(1)) for name in OTHERS)


def test_importance_matrix_changes_the_first_down_projections_of_two_mixes() -> None:
    for quantization, without, with_it in (("iq4_nl", "Q5_K", "IQ4_NL"), ("q4_0", "Q4_0", "Q4_1")):
        for imatrix, kind in ((False, without), (True, with_it)):
            chosen = choose_types(quantization, tensors(8), shape(8), imatrix=imatrix)
            assert chosen["blk.0.ffn_down.weight"].kind == kind
            assert chosen["blk.1.ffn_down.weight"].kind == quantization.upper()


def test_order_is_llama_cpps() -> None:
    names = list(choose_types("q8_0", tensors(11), shape(11)))
    assert names[:4] == ["output.weight", "output_norm.weight", "token_embd.weight", "blk.0.attn_k.weight"]
    assert names.index("blk.10.attn_k.weight") > names.index("blk.9.ffn_up.weight")


def test_every_quantization_has_a_choice_for_every_tensor() -> None:
    for quantization in OURS:
        assert choose_types(quantization, tensors(4), shape(4)).keys() == tensors(4).keys()
