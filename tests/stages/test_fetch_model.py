import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import save_file

from stages.core.errors import StageError
from stages.fetch_model import FetchModelParams, fetch_model

CUSTOM = FetchModelParams(source="custom", revision=None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small whole model folder."""
    folder = tmp_path / "custom_base"
    folder.mkdir()
    (folder / ".gitkeep").touch()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "generation_config.json").write_text("{}")
    (folder / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    save_file(
        {"a": np.zeros((3, 4), np.float16), "b": np.ones(5, np.float32)},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    return folder


def sharded(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    save_file({"a": np.zeros((3, 4), np.float16)}, folder / "model-00001-of-00002.safetensors")
    save_file({"b": np.ones(5, np.float32)}, folder / "model-00002-of-00002.safetensors")
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def fetch(folder: Path) -> tuple[Path, Path]:
    base, tokenizer = folder.parent / "base", folder.parent / "tokenizer"
    fetch_model(folder.parent / "demo", folder, base, tokenizer, CUSTOM)
    return base, tokenizer


def refusal(folder: Path) -> str:
    with pytest.raises(StageError) as caught:
        fetch(folder)
    assert str(folder.parent) not in str(caught.value)
    return str(caught.value)


def test_folder_is_parted_into_base_and_tokenizer(folder: Path) -> None:
    (folder / "README.md").write_text("not needed")
    base, tokenizer = fetch(folder)
    assert sorted(path.name for path in base.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "source.json",
    ]
    assert sorted(path.name for path in tokenizer.iterdir()) == [
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (base / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    source = json.loads((base / "source.json").read_text())
    assert (source["source"], source["revision"], len(source["files"])) == ("custom", None, 6)


def test_demo_folder_is_taken_by_name(folder: Path) -> None:
    fetch_model(
        folder, folder.parent, folder.parent / "b", folder.parent / "t", FetchModelParams(source="demo", revision=None)
    )
    assert (folder.parent / "b/model.safetensors").exists()


def test_shards_and_index_are_taken(folder: Path) -> None:
    sharded(folder)
    base, _ = fetch(folder)
    assert len(list(base.glob("*.safetensors"))) == 2
    assert (base / "model.safetensors.index.json").exists()


def test_missing_shard_is_named(folder: Path) -> None:
    sharded(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors" in refusal(folder)


def test_tensor_missing_from_its_shard_is_found(folder: Path) -> None:
    sharded(folder)
    save_file({"other": np.ones(5, np.float32)}, folder / "model-00002-of-00002.safetensors")
    assert "1 of the index's 2 tensors" in refusal(folder)


@pytest.mark.parametrize("cut", [0, 4, 8, 20, -1])
def test_cut_off_weights_are_refused(folder: Path, cut: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    assert "cut off" in refusal(folder) or "damaged" in refusal(folder)


def test_appended_bytes_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"x")
    assert "appended" in refusal(folder)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F16", "shape": [3], "data_offsets": [0, 8]},
        {"dtype": "F16"},
        [],
        {"dtype": "F16", "shape": [4], "data_offsets": [8, 16]},
    ],
)
def test_header_that_contradicts_itself_is_refused(folder: Path, entry: object) -> None:
    header = json.dumps({"a": entry}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    assert "damaged" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", '{"model_type": "x", "auto_map": {"AutoModel": "m.M"}}', "code of its own"),
        ("config.json", '{"model_type": "x", "quantization_config": {"load_in_4bit": true}}', "16-bit"),
        ("config.json", '{"model_type', "not JSON"),
        ("config.json", "[]", "object"),
        ("config.json", "{}", "model_type"),
        ("tokenizer.json", "{}", "not a tokenizers file"),
        ("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": ["t.T", null]}}', "code of its own"),
        ("model.safetensors.index.json", "{}", "weight_map"),
    ],
)
def test_file_that_cannot_be_used_is_refused_with_the_reason(
    folder: Path, name: str, content: str, message: str
) -> None:
    (folder / name).write_text(content)
    assert message in refusal(folder)


def test_pickled_weights_alone_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "run code" in refusal(folder)


def test_sentencepiece_alone_is_refused_with_how_to_convert(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    assert "save_pretrained" in refusal(folder)


def test_adapter_folder_is_refused_as_such(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")
    assert "adapter" in refusal(folder)


def test_empty_folder_says_what_belongs_there(tmp_path: Path) -> None:
    folder = tmp_path / "custom_base"
    folder.mkdir()
    (folder / ".gitkeep").touch()
    assert "no files" in refusal(folder)


def test_link_out_of_the_folder_is_refused(folder: Path) -> None:
    (folder / "config.json").rename(folder.parent / "config.json")
    (folder / "config.json").symlink_to("../config.json")
    assert "link" in refusal(folder)


@pytest.mark.parametrize(
    ("source", "revision", "message"),
    [
        ("demo", "a" * 40, "null"),
        ("owner/name", None, "commit"),
        ("owner/name", "main", "revision"),
        ("./folder", None, "OWNER/NAME"),
    ],
)
def test_params_that_do_not_belong_together_are_refused(source: str, revision: str | None, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FetchModelParams(source=source, revision=revision)
