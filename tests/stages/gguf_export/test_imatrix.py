"""The importance matrix: that it is llama.cpp's own, and that it is over the training rows."""

import subprocess
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pyarrow as pa
import pytest

from stages.contracts.tokens import SCHEMA
from stages.core.errors import StageError
from stages.gguf_export import imatrix as module
from stages.gguf_export.convert import finish_conversion, outtype, start_conversion
from stages.gguf_export.folder_tensors import read_weights
from stages.gguf_export.imatrix import compute_imatrix, group_rows, read_training_rows
from stages.llama_cpp.gguf_reader import open_gguf
from stages.llama_cpp.imatrix_file import read_importance, write_importance
from stages.llama_cpp.programs import find_or_build
from stages.llama_cpp.quantize import quantize
from stages.llama_cpp.runtime import Model
from stages.tokenization.exportable import pretokenizer as rules
from tests.arrow_files import write_arrow
from tests.stages.gguf_export.support.models_in_small import LLAMA_3_TEMPLATE, make_merged
from tests.stages.gguf_export.support.tokenizers_in_small import save, split_by, train

CHUNK = 64
"""Tokens of llama-imatrix's sequences."""


def write_rows(path: Path, rows: dict[str, list[int]]) -> None:
    table = pa.table(
        {"row_id": list(rows), "input_ids": list(rows.values()), "labels": list(rows.values())}, schema=SCHEMA
    )
    path.parent.mkdir(exist_ok=True)
    write_arrow(path, table)


def values(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: np.array(tensor.data) for tensor in open_gguf(path).tensors}


def test_training_rows_are_whole_in_the_order_of_their_ids_and_the_last_is_cut(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.arrow", {"c": [1, 2, 3], "a": [4, 5], "b": [6, 7, 8, 9]})
    assert read_training_rows(tmp_path / "train.arrow", 5) == [[4, 5], [6, 7, 8]]
    assert read_training_rows(tmp_path / "train.arrow", 6) == [[4, 5], [6, 7, 8, 9]]
    assert read_training_rows(tmp_path / "train.arrow", 99) == [[4, 5], [6, 7, 8, 9], [1, 2, 3]]


def test_training_rows_that_are_none_are_told(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.arrow", {})
    with pytest.raises(StageError, match="no training row"):
        read_training_rows(tmp_path / "train.arrow", 5)


def test_groups_bound_the_hidden_states_and_lose_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STATES_BYTES", 10 * 2 * 4 * 16)
    rows = [[0] * count for count in (4, 6, 1, 12, 3)]
    assert [[len(ids) for ids in group] for group in group_rows(rows, 16)] == [[4, 6], [1], [12], [3]]


def test_importance_of_a_file_is_the_mean_square(tmp_path: Path) -> None:
    write_importance(tmp_path / "imatrix.gguf", {"blk.0.attn_q.weight": np.array([8.0, 0.0, 2.0])}, 4, 2, {})
    found = read_importance(tmp_path / "imatrix.gguf")
    assert found.columns["blk.0.attn_q.weight"].tolist() == [2.0, 0.0, 0.5]
    assert found.metadata == {
        "quantize.imatrix.file": "imatrix.gguf",
        "quantize.imatrix.dataset": "training rows",
        "quantize.imatrix.entries_count": 1,
        "quantize.imatrix.chunks_count": 2,
    }


def test_importance_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"blk\.0\.attn_q\.weight hold values that are no finite numbers"):
        write_importance(tmp_path / "imatrix.gguf", {"blk.0.attn_q.weight": np.array([1.0, np.inf])}, 4, 2, {})


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A merged model, its conversion in fp32, and its tokenizer."""
    root = tmp_path_factory.mktemp(request.param)
    tokenizer = save(train(split_by(rules.LLAMA_3)), root / "tokenizer", LLAMA_3_TEMPLATE)
    make_merged(root / "merged", tokenizer, family=request.param, tied=request.param == "qwen2", vocabulary=1024)
    kind = outtype(read_weights(root / "merged"))
    finish_conversion(start_conversion(root / "merged", root / "full.gguf", kind, "small"), root / "full.gguf")
    quantize(root / "full.gguf", root / "fp32.gguf", "f32", {}, threads=2)
    return root, tokenizer


def as_llama_imatrix_cuts(path: Path, text: str) -> list[list[int]]:
    """The sequences that llama-imatrix makes of a text: pieces of CHUNK tokens, each with BOS in the place of its first where the file adds BOS."""
    with Model(path, CHUNK, 1) as file:
        ids = file.tokenize(text, add_special=True)
        pieces = [ids[start : start + CHUNK] for start in range(0, len(ids) - CHUNK + 1, CHUNK)]
        return [[file.bos, *piece[1:]] if file.adds_bos else piece for piece in pieces]


@pytest.mark.slow
def test_imatrix_is_that_of_llama_imatrix_on_the_same_tokens(model: tuple[Path, Any], tmp_path: Path) -> None:
    root, _ = model
    text = "".join(f"The lamp {number} is in the attic; where are {number * 7} keys?\n" for number in range(60))
    (tmp_path / "text.txt").write_text(text)
    sequences = as_llama_imatrix_cuts(root / "fp32.gguf", text)
    write_rows(tmp_path / "tokens" / "train.arrow", {f"{number:03}": ids for number, ids in enumerate(sequences)})
    said = compute_imatrix(
        root / "merged", tmp_path / "tokens", root / "full.gguf", tmp_path / "imatrix.gguf", 10**6, "cpu", {}
    )
    assert (said["rows"], said["tokens"]) == (len(sequences), CHUNK * len(sequences))
    command = [
        find_or_build("llama-imatrix"), "-m", root / "fp32.gguf", "-f", tmp_path / "text.txt", "-o", tmp_path / "theirs.gguf",
        "-c", str(CHUNK), "-t", "1", "--no-ppl", "-fa", "off",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    ours, theirs = values(tmp_path / "imatrix.gguf"), values(tmp_path / "theirs.gguf")
    assert list(ours) == list(theirs)
    for name, found in theirs.items():
        assert ours[name].shape == found.shape
        if name.endswith(".counts"):
            assert np.array_equal(ours[name], found)
        else:
            # llama.cpp keeps keys and values in 16 bit
            assert np.abs(ours[name] / found - 1).max() < 2e-3, name
    keys = [set(open_gguf(path).fields) for path in (tmp_path / "imatrix.gguf", tmp_path / "theirs.gguf")]
    assert keys[0] == keys[1]


@pytest.mark.slow
def test_imatrix_twice_and_in_groups_gives_the_same_bytes(
    model: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = model
    draw = np.random.default_rng(2)
    write_rows(tmp_path / "train.arrow", {f"{row:02}": draw.integers(0, 300, 20 + row).tolist() for row in range(12)})
    digests = []
    for states in (1 << 30, 1 << 30, 1):
        monkeypatch.setattr(module, "STATES_BYTES", states)
        said = compute_imatrix(root / "merged", tmp_path, root / "full.gguf", tmp_path / "imatrix.gguf", 200, "cpu", {})
        digests.append(said["sha256"])
    assert said["tokens"] == 200
    assert len(set(digests)) == 1


@pytest.mark.slow
def test_imatrix_of_a_model_that_does_not_run_by_layers_is_the_same(model: tuple[Path, Any]) -> None:
    root, _ = model
    names = {
        "model.layers.1.mlp.down_proj": "blk.1.ffn_down.weight",
        "model.layers.0.self_attn.q_proj": "blk.0.attn_q.weight",
    }
    rows = [[5, 6, 7, 8, 9], [10, 11, 12]]
    found = []
    for run in (module.run_by_layers, module.run_whole):
        squares = module.SquareSums(names)
        run(root / "merged", rows, squares, "cpu")
        found.append({name: total.numpy() for name, total in squares.sums.items()})
    assert found[0].keys() == found[1].keys() == set(names.values())
    for name, total in found[0].items():
        assert np.allclose(total, found[1][name], rtol=1e-5)


@pytest.mark.slow
def test_imatrix_that_lacks_a_matrix_is_refused(model: tuple[Path, Any]) -> None:
    root, _ = model
    with pytest.raises(StageError, match=r"cannot be computed for blk\.1\.other\.weight"):
        module.sum_squares(root / "merged", [[5, 6, 7]], {"model.layers.1.mlp.other": "blk.1.other.weight"}, "cpu")


def test_file_is_one_that_ggufs_own_reader_reads(tmp_path: Path) -> None:
    write_importance(tmp_path / "imatrix.gguf", {"blk.0.attn_q.weight": np.ones(32)}, 4, 2, {})
    reader = gguf.GGUFReader(tmp_path / "imatrix.gguf")
    assert reader.fields["general.type"].contents() == "imatrix"
    assert [tuple(tensor.shape.tolist()) for tensor in reader.tensors] == [(32,), (1,)]


def test_importance_file_says_what_made_it(tmp_path: Path) -> None:
    says = {"retune.kind": "importance matrix", "general.base_model.count": 1}
    write_importance(tmp_path / "imatrix.gguf", {"blk.0.attn_q.weight": np.ones(32)}, 4, 2, says)
    fields = gguf.GGUFReader(tmp_path / "imatrix.gguf").fields
    assert {key: fields[key].contents() for key in says} == says
