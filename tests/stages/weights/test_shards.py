import hashlib
from pathlib import Path

import pytest

from stages.core.errors import StageError
from stages.models.safetensors_header import read_header
from stages.weights.shards import read_blocks, read_headers, read_rows, write_shard

pytestmark = pytest.mark.slow


def save(path: Path) -> dict[str, object]:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    values = {
        "b": torch.randn(7, 5).to(torch.bfloat16),
        "a": torch.randn(3, 2, 4),
        "number": torch.tensor(2.5),
        "none": torch.zeros(0, 4),
    }
    save_file(values, path, metadata={"format": "pt"})
    return values


def test_tensors_and_rows_are_read_as_they_were_saved(tmp_path: Path) -> None:
    import torch

    values = save(tmp_path / "one.safetensors")
    tensors = read_header(tmp_path / "one.safetensors")
    assert tensors.keys() == values.keys()
    for name, value in values.items():
        found = read_rows(tensors[name])
        assert found.dtype == value.dtype
        assert torch.equal(found, value), name
    assert torch.equal(read_rows(tensors["b"], 2, 5), values["b"][2:5])
    assert torch.equal(read_rows(tensors["b"], 5, 99), values["b"][5:])
    assert read_rows(tensors["b"], 7, 9).shape == (0, 5)


def test_written_file_is_one_that_others_read_and_its_hash_is_right(tmp_path: Path) -> None:
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file

    values = save(tmp_path / "one.safetensors")
    tensors = read_header(tmp_path / "one.safetensors")
    shapes = {name: (one.dtype, one.shape, one.stop - one.start) for name, one in tensors.items()}
    blocks = (
        block
        for name, one in tensors.items()
        for block in ([read_rows(one, 0, 3), read_rows(one, 3)] if name == "b" else read_blocks(one))
    )
    digest = write_shard(tmp_path / "two.safetensors", shapes, blocks)
    again = load_file(tmp_path / "two.safetensors")
    assert all(torch.equal(again[name], value) for name, value in values.items())
    assert digest == hashlib.sha256((tmp_path / "two.safetensors").read_bytes()).hexdigest()
    assert read_header(tmp_path / "two.safetensors").keys() == tensors.keys()
    with safe_open(tmp_path / "two.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    with pytest.raises(ValueError, match="bytes of tensors"):
        write_shard(tmp_path / "three.safetensors", shapes, [b"too few"])


def test_damaged_and_doubled_files_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "one.safetensors")
    save(tmp_path / "two.safetensors")
    with pytest.raises(StageError, match="both hold"):
        read_headers(sorted(tmp_path.glob("*.safetensors")))
    whole = (tmp_path / "one.safetensors").read_bytes()
    (tmp_path / "one.safetensors").write_bytes(whole[:-3])
    with pytest.raises(StageError, match="cut off"):
        read_header(tmp_path / "one.safetensors")
