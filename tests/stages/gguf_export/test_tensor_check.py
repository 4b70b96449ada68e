from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from stages.core.errors import StageError
from stages.gguf_export.folder_tensors import read_weights
from stages.gguf_export.tensor_check import dequantize, verify_conversion, verify_quantized
from stages.llama_cpp.fast_gguf_reader import open_quickly
from stages.llama_cpp.gguf_reader import open_gguf
from stages.llama_cpp.quantization_names import NEEDS_IMATRIX, OTHERS, OURS
from stages.llama_cpp.quantize import quantize
from tests.stages.gguf_export.support.models_in_small import folder_names, write_imatrix, write_model


@pytest.fixture
def model(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """A converted file and the folder's tensors that it was made from."""
    values = write_model(tmp_path / "source.gguf")
    return tmp_path / "source.gguf", folder_names(values, heads=4, kv_heads=2)


def verify(source: Path, folder: Path, tensors: dict[str, np.ndarray]) -> None:
    folder.mkdir()
    names = sorted(tensors)
    save_file({name: tensors[name] for name in names[::2]}, folder / "model-00001-of-00002.safetensors")
    save_file({name: tensors[name] for name in names[1::2]}, folder / "model-00002-of-00002.safetensors")
    verify_conversion(gguf.GGUFReader(source), read_weights(folder))


def change(path: Path, name: str, alter: Any) -> None:
    reader = gguf.GGUFReader(path, "r+")
    alter(next(tensor for tensor in reader.tensors if tensor.name == name).data)
    reader.data.flush()


def test_conversion_of_the_same_tensors_passes(model: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    verify(model[0], tmp_path / "merged", model[1])


def test_conversion_with_one_value_altered_fails(model: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    model[1]["model.layers.1.mlp.down_proj.weight"][200, 300] *= 1.01
    with pytest.raises(
        StageError, match=r"blk\.1\.ffn_down\.weight has other values .*model\.layers\.1\.mlp\.down_proj"
    ):
        verify(model[0], tmp_path / "merged", model[1])


def test_conversion_without_the_rotary_order_of_rows_fails(
    model: tuple[Path, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    model[1][name] = np.ascontiguousarray(model[1][name][::-1])
    with pytest.raises(StageError, match=r"blk\.0\.attn_q\.weight has other values"):
        verify(model[0], tmp_path / "merged", model[1])


def test_conversion_that_lacks_a_tensor_of_the_folder_fails(
    model: tuple[Path, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    model[1]["model.layers.2.mlp.up_proj.weight"] = model[1]["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(
        StageError, match=r"holds model\.layers\.2\.mlp\.up_proj\.weight, which llama\.cpp has no name for"
    ):
        verify(model[0], tmp_path / "merged", model[1])


def test_conversion_with_a_tensor_that_the_folder_lacks_fails(
    model: tuple[Path, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    del model[1]["model.layers.0.mlp.up_proj.weight"]
    with pytest.raises(StageError, match=r"has blk\.0\.ffn_up\.weight too many"):
        verify(model[0], tmp_path / "merged", model[1])


@pytest.mark.parametrize("missing", ["blk.1.ffn_up.weight", "token_embd.weight", "output_norm.weight"])
def test_file_that_lacks_a_tensor_fails_whether_or_not_the_folder_has_it(tmp_path: Path, missing: str) -> None:
    values = write_model(tmp_path / "source.gguf")
    writer = gguf.GGUFWriter(tmp_path / "less.gguf", "llama")
    for key, value in (("block_count", 2), ("attention.head_count", 4), ("attention.head_count_kv", 2)):
        writer.add_uint32(f"llama.{key}", value)
    whole = folder_names(values, heads=4, kv_heads=2)
    del values[missing]
    for name, value in values.items():
        writer.add_tensor(name, value.astype(np.float16) if value.ndim > 1 else value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(StageError, match=f"the converted file lacks {missing}"):
        verify(tmp_path / "less.gguf", tmp_path / "whole", whole)
    with pytest.raises(StageError, match=f"the merged model lacks {missing}"):
        verify(tmp_path / "less.gguf", tmp_path / "merged", folder_names(values, heads=4, kv_heads=2))


def test_tied_folder_may_hold_the_matrix_twice_but_not_two_matrices(tmp_path: Path) -> None:
    tensors = folder_names(write_model(tmp_path / "source.gguf", tied=True), heads=4, kv_heads=2)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    verify(tmp_path / "source.gguf", tmp_path / "same", tensors)
    tensors["lm_head.weight"][0, 0] += 1
    with pytest.raises(StageError, match=r"lacks output\.weight"):
        verify(tmp_path / "source.gguf", tmp_path / "other", tensors)


def test_values_that_are_no_numbers_fail(model: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    change(model[0], "output.weight", lambda data: data.__setitem__((1, 1), np.inf))
    model[1]["lm_head.weight"][1, 1] = np.inf
    with pytest.raises(StageError, match=r"output\.weight holds values that are no finite numbers"):
        verify(model[0], tmp_path / "merged", model[1])


def test_cut_off_safetensors_are_refused(model: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    folder = tmp_path / "merged"
    verify(model[0], folder, model[1])
    path = folder / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StageError, match=r"model-00002-of-00002\.safetensors is cut off"):
        read_weights(folder)


def alter(path: Path, edit: Any) -> None:
    reader = open_quickly(path, "r+")
    edit(next(tensor for tensor in reader.tensors if tensor.name == "blk.1.ffn_down.weight").data)
    reader.data.flush()


def take_another_row(data: np.ndarray) -> None:
    data[7] = data[8].copy()


def zero_a_row(data: np.ndarray) -> None:
    data[7] = 0


@pytest.mark.parametrize("imatrix", [False, True])
@pytest.mark.parametrize("quantization", [*OURS, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_quantized_file_passes_and_fails_with_one_row_altered(
    tmp_path: Path, quantization: str, *, imatrix: bool
) -> None:
    if quantization in NEEDS_IMATRIX and not imatrix:
        pytest.skip("there is no such file")
    write_model(tmp_path / "source.gguf", kind="BF16")
    write_imatrix(tmp_path / "imatrix.gguf", tmp_path / "source.gguf")
    given = tmp_path / "imatrix.gguf" if imatrix else None
    source = open_gguf(tmp_path / "source.gguf")
    quantize(tmp_path / "source.gguf", tmp_path / "out.gguf", quantization, {}, threads=2, imatrix=given)
    verify_quantized(open_gguf(tmp_path / "out.gguf"), source, threads=2)
    alter(tmp_path / "out.gguf", take_another_row)
    with pytest.raises(StageError, match=r"blk\.1\.ffn_down\.weight differs from the merged model in 1 rows"):
        verify_quantized(open_gguf(tmp_path / "out.gguf"), source, threads=2)
    if quantization not in (
        "tq1_0",
        "tq2_0",
        "iq1_s",
        "iq1_m",
    ):  # zero bytes of theirs are no zeros, or as near as what they round to
        alter(tmp_path / "out.gguf", zero_a_row)
        with pytest.raises(StageError, match="in 1 rows"):
            verify_quantized(open_gguf(tmp_path / "out.gguf"), source, threads=2)


def test_kernels_give_back_the_values_that_the_gguf_package_does(tmp_path: Path) -> None:
    write_model(tmp_path / "source.gguf", kind="BF16")
    for quantization in ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q4_0", "iq4_nl"):
        quantize(tmp_path / "source.gguf", tmp_path / "out.gguf", quantization, {}, threads=2)
        for tensor in open_gguf(tmp_path / "out.gguf").tensors:
            ours = dequantize(np.atleast_2d(tensor.data), tensor.tensor_type.name, int(tensor.shape[0]))
            theirs = gguf.quants.dequantize(np.atleast_2d(tensor.data), tensor.tensor_type)
            assert np.allclose(ours, theirs, rtol=1e-6, atol=0), (quantization, tensor.name)
