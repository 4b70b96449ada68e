import os
import shutil
import subprocess
from pathlib import Path

import gguf
import numpy as np
import pytest

from stages.errors import StageError
from stages.llama_cpp.mix import QUANTIZATIONS
from stages.llama_cpp.quantize import quantize
from tests.stages.llama_cpp.models_in_small import write_model

SHAPES = {
    "llama": {"layers": 8, "kv_heads": 2, "kind": "BF16"},
    "llama-tied-one-value-head": {"layers": 17, "heads": 8, "kv_heads": 1, "tied": True, "kind": "F16"},
    "llama-no-k-quants": {"layers": 3, "hidden": 192, "inner": 544, "heads": 6, "kv_heads": 3, "kind": "F32"},
    "qwen2": {"architecture": "qwen2", "layers": 4, "tied": True, "kind": "BF16"},
    "gemma": {"architecture": "gemma", "layers": 4, "tied": True, "kv_heads": 1, "kind": "BF16"},
}


def llama_quantize() -> str | None:
    """A real llama-quantize, where there is one: in LLAMA_CPP_DIR (or its build/bin), or on PATH."""
    folder = os.environ.get("LLAMA_CPP_DIR")
    places = [Path(folder), Path(folder) / "build" / "bin", Path(folder) / "bin"] if folder else []
    found = next((place / "llama-quantize" for place in places if (place / "llama-quantize").is_file()), None)
    return str(found) if found else shutil.which("llama-quantize")


@pytest.mark.slow
@pytest.mark.skipif(llama_quantize() is None, reason="no llama-quantize in LLAMA_CPP_DIR or on PATH")
@pytest.mark.parametrize("model", SHAPES)
def test_quantized_file_is_byte_for_byte_that_of_llama_quantize(tmp_path: Path, model: str) -> None:
    source, ours, theirs = tmp_path / "source.gguf", tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    write_model(source, **SHAPES[model])
    for quantization in QUANTIZATIONS:
        quantize(source, ours, quantization, {}, threads=2)
        subprocess.run([str(llama_quantize()), source, theirs, quantization.upper()], check=True, capture_output=True)
        one, other = gguf.GGUFReader(ours), gguf.GGUFReader(theirs)
        assert {tensor.name: tensor.tensor_type for tensor in one.tensors} == {
            tensor.name: tensor.tensor_type for tensor in other.tensors
        }
        for mine, real in zip(one.tensors, other.tensors, strict=True):
            assert np.array_equal(mine.data, real.data), f"{quantization}: {mine.name} ({mine.tensor_type.name})"
        assert ours.read_bytes() == theirs.read_bytes(), quantization


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
