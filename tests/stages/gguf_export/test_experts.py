"""Models with experts: their matrices lie apart in a transformers folder and one above the other in a GGUF file."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from stages.contracts.tokens import SCHEMA
from stages.core.errors import StageError
from stages.gguf_export.convert import finish_conversion, outtype, start_conversion
from stages.gguf_export.folder_tensors import read_weights
from stages.gguf_export.imatrix import compute_imatrix
from stages.gguf_export.tensor_check import required_tensors, verify_conversion, verify_quantized
from stages.llama_cpp.fast_gguf_reader import open_quickly
from stages.llama_cpp.gguf_reader import open_gguf
from stages.llama_cpp.programs import find_existing, find_or_build
from stages.llama_cpp.quantize import name_quantizer, quantize
from stages.llama_cpp.runtime import Model
from stages.llama_cpp.tensor_types import Hparams
from stages.tokenization.exportable import pretokenizer as rules
from tests.arrow_files import write_arrow
from tests.stages.gguf_export.support.models_in_small import LLAMA_3_TEMPLATE, make_adapter, make_tokens
from tests.stages.gguf_export.support.records_in_small import export, params
from tests.stages.gguf_export.support.tokenizers_in_small import save, split_by, train

pytestmark = pytest.mark.slow
SMALL: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 512, "head_dim": 64, "initializer_range": 0.1,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 256, "norm_topk_prob": True},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 4},
}


def make_merged(folder: Path, family: str) -> Any:
    """A small model with experts in bf16, in two files; the model."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = save(train(split_by(rules.LLAMA_3)), folder, LLAMA_3_TEMPLATE)
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    torch.manual_seed(1)
    torch.set_num_threads(1)
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), **{**SMALL, **FAMILIES[family]}, **special)
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder, max_shard_size="4MB")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def convert(folder: Path, target: Path, kind: str | None = None) -> Path:
    finish_conversion(start_conversion(folder, target, kind or outtype(read_weights(folder)), "small"), target)
    return target


@pytest.mark.parametrize("family", FAMILIES)
def test_converted_model_with_experts_holds_every_expert_and_gives_transformers_logits(
    tmp_path: Path, family: str
) -> None:
    import torch

    model = make_merged(tmp_path / "merged", family)
    # in fp32, since llama.cpp rounds what it multiplies a bf16 matrix by, and a router's choice may turn on that
    path = convert(tmp_path / "merged", tmp_path / "full.gguf", "f32")
    tensors = read_weights(tmp_path / "merged")
    assert sum(".experts." in name for name in tensors) == 3 * 3
    verify_conversion(open_quickly(path), tensors)
    ids = np.random.default_rng(1).integers(0, 1000, 60).tolist()
    with torch.inference_mode():
        theirs = model(input_ids=torch.tensor([ids])).logits[0].numpy()
    with Model(path, context=256, threads=2) as file:
        ours = file.logits(ids, np.ones(len(ids), dtype=np.bool_))
    near = np.abs(ours - theirs).max(axis=1) < 5e-3 * np.abs(theirs).max()
    assert (
        near.mean() >= 0.9
    )  # llama.cpp keeps keys and values in 16 bit, so that a choice between two next to equal may still turn


@pytest.mark.skipif(
    find_existing("llama-quantize") is None, reason="no llama-quantize here, and experts are its business"
)
def test_export_of_a_model_with_experts_is_measured_like_any_other(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    make_merged(tmp_path / "merged", "mixtral")
    make_tokens(tmp_path / "tokens", AutoTokenizer.from_pretrained(tmp_path / "merged"))
    make_adapter(tmp_path / "adapter")
    found = export(tmp_path, params("q8_0", "q4_k_m", answers=2))["files"]
    quality = {file["quantization"]: file["quality"] for file in found.values()}
    assert quality["q8_0"]["kl"] < 0.05
    assert quality["q8_0"]["kl"] < quality["q4_k_m"]["kl"]


def changed(folder: Path, alter: Callable[[dict[str, Any]], None]) -> None:
    """The folder with its tensors altered, in one file."""
    from safetensors.torch import load_file, save_file

    tensors: dict[str, Any] = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
        file.unlink()
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    alter(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


EXPERT = "model.layers.2.block_sparse_moe.experts.3.w2.weight"


def alter_one_value(tensors: dict[str, Any]) -> None:
    tensors[EXPERT][5, 7] += 1


def exchange_two(tensors: dict[str, Any]) -> None:
    other = EXPERT.replace("experts.3", "experts.0")
    tensors[EXPERT], tensors[other] = tensors[other], tensors[EXPERT]


@pytest.mark.parametrize("alter", [alter_one_value, exchange_two])
def test_converted_model_with_an_expert_altered_is_refused(tmp_path: Path, alter: Any) -> None:
    make_merged(tmp_path / "merged", "mixtral")
    path = convert(tmp_path / "merged", tmp_path / "full.gguf")
    changed(tmp_path / "merged", alter)
    with pytest.raises(StageError, match=r"blk\.2\.ffn_down_exps\.weight has other values"):
        verify_conversion(open_quickly(path), read_weights(tmp_path / "merged"))


@pytest.mark.parametrize(
    ("alter", "said"),
    [
        (
            lambda tensors: tensors.pop(EXPERT),
            r"layers\.2\.block_sparse_moe\.experts\.w2\.weight .* expert 3 of 4 is missing",
        ),
        (lambda tensors: tensors.update({EXPERT: tensors[EXPERT][:5].clone()}), "several shapes"),
    ],
)
def test_folder_whose_experts_are_not_whole_is_refused(tmp_path: Path, alter: Any, said: str) -> None:
    make_merged(tmp_path / "merged", "mixtral")
    changed(tmp_path / "merged", alter)
    with pytest.raises(StageError, match=said):
        read_weights(tmp_path / "merged")


def test_layer_with_experts_need_not_hold_what_a_dense_layer_holds() -> None:
    dense, experts = {"attn_q.weight", "ffn_up.weight"}, {"attn_q.weight", "ffn_gate_inp.weight", "ffn_up_exps.weight"}
    kinds = [dense, experts, experts]
    names = {f"blk.{number}.{part}": None for number, parts in enumerate(kinds) for part in parts}
    whole = {*names, "token_embd.weight", "output_norm.weight"}
    shape = Hparams("deepseek2", 3, 4, 4, 4)
    assert required_tensors(shape, names) == whole
    del names["blk.2.ffn_gate_inp.weight"]
    assert required_tensors(shape, names) == whole


def test_quantized_experts_are_held_against_the_unquantized_row_by_row(tmp_path: Path) -> None:
    import gguf

    from stages.llama_cpp.quantize import as_float32

    make_merged(tmp_path / "merged", "mixtral")
    source = open_quickly(convert(tmp_path / "merged", tmp_path / "full.gguf"))
    kind = gguf.GGMLQuantizationType.Q8_0
    writer = gguf.GGUFWriter(tmp_path / "q8_0.gguf", "llama")
    for tensor in source.tensors:
        if tensor.tensor_type == gguf.GGMLQuantizationType.BF16:
            rounded = gguf.quants.quantize(as_float32(tensor.data).reshape(tensor.shape[::-1].tolist()), kind)
            writer.add_tensor(tensor.name, rounded, raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    verify_quantized(open_quickly(tmp_path / "q8_0.gguf"), source, threads=2)
    made = open_quickly(tmp_path / "q8_0.gguf", "r+")
    experts = next(tensor for tensor in made.tensors if tensor.name == "blk.1.ffn_up_exps.weight").data
    experts[2, 7] = experts[2, 8].copy()
    made.data.flush()
    with pytest.raises(StageError, match=r"blk\.1\.ffn_up_exps\.weight differs from the merged model in 1 rows"):
        verify_quantized(open_quickly(tmp_path / "q8_0.gguf"), source, threads=2)


@pytest.mark.parametrize("quantization", ["f16", "q8_0", "q4_k_m", "iq3_s"])
def test_quantized_model_with_experts_is_that_of_llama_quantize(tmp_path: Path, quantization: str) -> None:
    make_merged(tmp_path / "merged", "mixtral")
    source, ours, theirs = (
        convert(tmp_path / "merged", tmp_path / "full.gguf"),
        tmp_path / "a.gguf",
        tmp_path / "b.gguf",
    )
    choices = quantize(source, ours, quantization, {}, threads=2)
    command = [find_or_build("llama-quantize"), source, theirs, quantization.upper()]
    subprocess.run(command, check=True, capture_output=True)
    assert ours.read_bytes() == theirs.read_bytes()
    verify_quantized(open_gguf(ours), open_quickly(source), threads=2)
    mixed = {choice.kind for name, choice in choices.items() if "_exps" in name}
    assert len(mixed) == {"q4_k_m": 2}.get(quantization, 1)
    assert name_quantizer(quantization, source).startswith(
        "xllamacpp" if quantization in ("f16", "q8_0") else "llama-quantize b"
    )


def test_importance_matrix_of_a_model_with_experts_is_refused_in_words(tmp_path: Path) -> None:
    make_merged(tmp_path / "merged", "mixtral")
    source = convert(tmp_path / "merged", tmp_path / "full.gguf")
    row = {"row_id": "a", "input_ids": [1, 2, 3], "labels": [1, 2, 3]}
    (tmp_path / "tokens").mkdir()
    write_arrow(tmp_path / "tokens" / "train.arrow", pa.Table.from_pylist([row], schema=SCHEMA))
    with pytest.raises(StageError, match=r"not computed for models with experts.*`gguf\.imatrix` to none"):
        compute_imatrix(tmp_path / "merged", tmp_path / "tokens", source, tmp_path / "imatrix.gguf", 10, "cpu", {})
