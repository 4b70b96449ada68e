import subprocess
from pathlib import Path

import gguf
import numpy as np
import pytest

from stages.core.errors import StageError
from stages.llama_cpp.gguf_reader import open_gguf
from stages.llama_cpp.imatrix_file import read_importance
from stages.llama_cpp.programs import find_or_build
from stages.llama_cpp.quantization_names import NEEDS_IMATRIX, OURS, QUANTIZATIONS, WITHOUT_IMATRIX
from stages.llama_cpp.quantize import quantize
from stages.llama_cpp.tensor_types import TensorType
from tests.stages.gguf_export.support.models_in_small import write_imatrix, write_model

SHAPES = {
    "llama": {"layers": 8, "kv_heads": 2, "kind": "BF16"},
    "llama-tied-one-value-head": {"layers": 17, "heads": 8, "kv_heads": 1, "tied": True, "kind": "F16"},
    "llama-no-k-quants": {"layers": 3, "hidden": 192, "inner": 544, "heads": 6, "kv_heads": 3, "kind": "F32"},
    "qwen2": {"architecture": "qwen2", "layers": 4, "tied": True, "kind": "BF16"},
    "gemma": {"architecture": "gemma", "layers": 4, "tied": True, "kv_heads": 1, "kind": "BF16"},
}


def made_by_llama_quantize(folder: Path, quantization: str, *given: str) -> Path:
    """source.gguf of the folder quantized by llama.cpp's own program, which writes down the path of the importance matrix as it was given."""
    command = [find_or_build("llama-quantize"), *given, "source.gguf", "theirs.gguf", quantization.upper()]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    return folder / "theirs.gguf"


@pytest.mark.slow
@pytest.mark.parametrize("imatrix", [False, True])
@pytest.mark.parametrize("model", SHAPES)
def test_quantized_file_is_byte_for_byte_that_of_llama_quantize(tmp_path: Path, model: str, *, imatrix: bool) -> None:
    source, ours, matrix = tmp_path / "source.gguf", tmp_path / "ours.gguf", tmp_path / "imatrix.gguf"
    write_model(source, **SHAPES[model])
    write_imatrix(matrix, source)
    # OTHERS' tensors are llama-quantize's own: one model shows that they are passed on whole
    for quantization, known in (QUANTIZATIONS if model == "llama" else OURS).items():
        uses = imatrix and known.default not in WITHOUT_IMATRIX
        if quantization in NEEDS_IMATRIX and not uses:
            continue
        quantize(source, ours, quantization, {}, threads=2, imatrix=matrix if uses else None)
        theirs = made_by_llama_quantize(tmp_path, quantization, *(["--imatrix", "imatrix.gguf"] if uses else []))
        one, other = open_gguf(ours), open_gguf(theirs)
        assert {tensor.name: tensor.tensor_type for tensor in one.tensors} == {
            tensor.name: tensor.tensor_type for tensor in other.tensors
        }
        for mine, real in zip(one.tensors, other.tensors, strict=True):
            assert np.array_equal(mine.data, real.data), f"{quantization}: {mine.name} ({mine.tensor_type.name})"
        assert ours.read_bytes() == theirs.read_bytes(), quantization


@pytest.mark.slow
def test_file_made_by_llama_quantize_has_the_overrides_and_tells_its_fallbacks(tmp_path: Path) -> None:
    write_model(tmp_path / "source.gguf", **SHAPES["llama-no-k-quants"])
    choices = quantize(
        tmp_path / "source.gguf", tmp_path / "q3_k_l.gguf", "q3_k_l", {"general.name": "x" * 200}, threads=1
    )
    fields = open_gguf(tmp_path / "q3_k_l.gguf").fields
    assert (fields["general.name"].contents(), fields["general.file_type"].contents()) == ("x" * 200, 13)
    assert choices["blk.0.attn_q.weight"] == TensorType("Q4_0", "Q3_K")
    assert choices["blk.0.attn_v.weight"] == TensorType("Q5_1", "Q5_K")
    assert choices["blk.0.attn_norm.weight"] == TensorType("F32", "F32")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q3_k_l.gguf", "source.gguf"]


@pytest.mark.slow
def test_llama_quantize_that_fails_is_told_with_what_it_said(tmp_path: Path) -> None:
    write_model(tmp_path / "source.gguf")
    with pytest.raises(StageError, match=r"(?s)failed to make iq1_s.*requires an im"):
        quantize(tmp_path / "source.gguf", tmp_path / "out.gguf", "iq1_s", {}, threads=1)


def test_importance_matrix_of_another_model_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "source.gguf")
    write_model(tmp_path / "other.gguf", inner=768)
    write_imatrix(tmp_path / "imatrix.gguf", tmp_path / "other.gguf")
    with pytest.raises(StageError, match=r"768 columns for blk\.0\.ffn_down\.weight, which has 512"):
        quantize(tmp_path / "source.gguf", tmp_path / "out.gguf", "q4_k_m", {}, 1, tmp_path / "imatrix.gguf")


def test_importance_matrix_makes_used_columns_finer(tmp_path: Path) -> None:
    values = write_model(tmp_path / "source.gguf", kind="BF16")
    write_imatrix(tmp_path / "imatrix.gguf", tmp_path / "source.gguf")
    importance = read_importance(tmp_path / "imatrix.gguf").columns["blk.1.ffn_up.weight"]
    errors = []
    for given in (None, tmp_path / "imatrix.gguf"):
        quantize(tmp_path / "source.gguf", tmp_path / "out.gguf", "q4_k_s", {}, 1, given)
        found = next(
            tensor for tensor in open_gguf(tmp_path / "out.gguf").tensors if tensor.name == "blk.1.ffn_up.weight"
        )
        off = gguf.quants.dequantize(found.data, found.tensor_type) - values["blk.1.ffn_up.weight"]
        errors.append(float((off**2 @ importance).mean()))
    assert errors[1] < 0.95 * errors[0]


def test_quantized_file_is_the_same_for_every_number_of_threads(tmp_path: Path) -> None:
    write_model(tmp_path / "source.gguf", layers=1, hidden=512, inner=4608, tied=True)
    for threads in (1, 3):
        quantize(tmp_path / "source.gguf", tmp_path / f"{threads}.gguf", "q4_k_m", {}, threads)
    assert (tmp_path / "1.gguf").read_bytes() == (tmp_path / "3.gguf").read_bytes()


@pytest.mark.parametrize(
    ("quantization", "error"),
    [("q8_0", 0.01), ("q6_k", 0.03), ("q5_k_m", 0.05), ("q4_k_m", 0.1), ("iq4_nl", 0.1), ("q3_k_m", 0.2)],
)
def test_quantized_values_are_near_the_true_ones(tmp_path: Path, quantization: str, error: float) -> None:
    values = write_model(tmp_path / "source.gguf", kind="BF16")
    quantize(tmp_path / "source.gguf", tmp_path / "out.gguf", quantization, {}, threads=2)
    for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors:
        got = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        true = values[tensor.name]
        assert np.linalg.norm(got - true) <= error * np.linalg.norm(true), tensor.name


def test_metadata_is_copied_overridden_and_says_what_the_file_is(tmp_path: Path) -> None:
    write_model(tmp_path / "source.gguf")
    overrides = {"general.name": "mine", "tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.eot_token_id": 7}
    quantize(tmp_path / "source.gguf", tmp_path / "out.gguf", "q4_k_m", overrides, threads=1)
    before = {name: field.contents() for name, field in gguf.GGUFReader(tmp_path / "source.gguf").fields.items()}
    after = {name: field.contents() for name, field in gguf.GGUFReader(tmp_path / "out.gguf").fields.items()}
    own = {"general.file_type": 15, "general.quantization_version": 2}
    counts = {name: after[name] for name in ("GGUF.kv_count", "GGUF.tensor_count")}
    assert after == {**before, **overrides, **own, **counts}
    assert after["tokenizer.ggml.add_bos_token"] is False


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "source.gguf", kind="F32")
    reader = gguf.GGUFReader(tmp_path / "source.gguf", "r+")
    tensor = next(tensor for tensor in reader.tensors if tensor.name == "blk.1.attn_v.weight")
    tensor.data[3, 5] = np.nan
    reader.data.flush()
    with pytest.raises(StageError, match=r"blk\.1\.attn_v\.weight.*no finite numbers"):
        quantize(tmp_path / "source.gguf", tmp_path / "out.gguf", "q4_k_m", {}, threads=2)
