import json
import math
from pathlib import Path

import pytest

from stages.core.errors import StageError
from stages.models.base_model import (
    base_digests,
    batches,
    check_not_merged,
    embedding_plan,
    parameter_count,
)


def safetensors(file: Path, shapes: dict[str, list[int]]) -> None:
    header, end = {}, 0
    for name, shape in shapes.items():
        size = math.prod(shape)
        header[name] = {"dtype": "U8", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))


def tokens_folder(folder: Path, vocabulary: int, added: dict[str, int]) -> Path:
    folder.mkdir()
    summary = {"vocabulary_size": vocabulary, "control_tokens": {"added": added, "as_text": []}}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.mark.parametrize(
    ("vocabulary", "added", "plan"),
    [
        (90, {}, (100, [])),
        (100, {"<a>": 97}, (100, [97])),
        (103, {"<a>": 102}, (103, [100, 101, 102])),
        (101, {"<a>": 98, "<b>": 100}, (101, [98, 100])),
    ],
)
def test_embedding_plan_trains_added_tokens_and_rows_that_the_base_lacks(
    tmp_path: Path, vocabulary: int, added: dict[str, int], plan: tuple[int, list[int]]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 100}))
    assert embedding_plan(tmp_path, tokens_folder(tmp_path / "tokens", vocabulary, added)) == plan


def test_parameter_count_adds_up_all_shards(tmp_path: Path) -> None:
    safetensors(tmp_path / "a.safetensors", {"x": [2, 3], "y": [4]})
    safetensors(tmp_path / "b.safetensors", {"z": [5]})
    assert parameter_count(tmp_path) == 15


def test_base_digests_are_the_source_records_or_the_bytes(tmp_path: Path) -> None:
    safetensors(tmp_path / "model.safetensors", {"x": [1]})
    (tmp_path / "config.json").write_text("{}")
    found = base_digests(tmp_path)
    assert sorted(found) == ["config.json", "model.safetensors"]
    (tmp_path / "source.json").write_text(
        json.dumps({"files": {f"base/{name}": digest for name, digest in found.items()}})
    )
    assert base_digests(tmp_path) == found


def test_base_that_holds_this_adapter_is_refused_and_another_is_not(tmp_path: Path) -> None:
    check_not_merged(tmp_path, "a")
    (tmp_path / "merged.json").write_text(json.dumps({"adapter": "a"}))
    check_not_merged(tmp_path, "b")
    with pytest.raises(StageError, match="already merged"):
        check_not_merged(tmp_path, "a")


def test_batches_hold_every_row_once_longest_first() -> None:
    assert list(batches([3, 9, 5, 9, 1], 2)) == [[1, 3], [2, 0], [4]]
    assert list(batches([], 2)) == []
