from pathlib import Path

import gguf
import numpy as np
import pytest

from stages.llama_cpp.fast_gguf_reader import open_quickly
from stages.tokenization.exportable import pretokenizer as rules
from tests.stages.gguf_export.support.models_in_small import write_model
from tests.stages.gguf_export.support.tokenizers_in_small import split_by, train, write_vocabulary


@pytest.mark.parametrize("kind", ["F16", "BF16", "F32"])
def test_quick_reader_reads_what_ggufs_own_reads(tmp_path: Path, kind: str) -> None:
    write_model(tmp_path / "a.gguf", kind=kind)
    write_vocabulary(tmp_path / "b.gguf", train(split_by(rules.LLAMA_3)), "llama-bpe")
    for name in ("a.gguf", "b.gguf"):
        ours, theirs = open_quickly(tmp_path / name), gguf.GGUFReader(tmp_path / name)
        assert list(ours.fields) == list(theirs.fields)
        for key, field in theirs.fields.items():
            assert (ours.fields[key].contents(), ours.fields[key].types) == (field.contents(), field.types)
        for mine, real in zip(ours.tensors, theirs.tensors, strict=True):
            assert (mine.name, mine.tensor_type, mine.n_bytes) == (real.name, real.tensor_type, real.n_bytes)
            assert (mine.data.dtype, mine.data.shape) == (real.data.dtype, real.data.shape)
            assert np.array_equal(mine.data, real.data)


def test_quick_reader_writes_to_the_file_where_it_is_asked_to(tmp_path: Path) -> None:
    write_model(tmp_path / "a.gguf", kind="F32")
    reader = open_quickly(tmp_path / "a.gguf", "r+")
    reader.tensors[0].data[0, 0] = 7
    reader.data.flush()
    assert gguf.GGUFReader(tmp_path / "a.gguf").tensors[0].data[0, 0] == 7


def test_quick_reader_reads_a_file_again_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write_model(path)
    first = open_quickly(path)
    assert open_quickly(path) is first
    assert open_quickly(path, "r+") is not first
    write_model(path, layers=1)
    assert len(open_quickly(path).tensors) < len(first.tensors)
