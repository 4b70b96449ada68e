import hashlib
import subprocess
from pathlib import Path

import pytest

from stages.core.files import read_json, sha256_files, sha256_tree, write_json


def test_write_json_same_value_any_order_gives_the_same_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"b": 1, "a": "é"})
    write_json(tmp_path / "b", {"a": "é", "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_json(tmp_path / "a") == {"a": "é", "b": 1}


def test_write_json_nan_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    write_json(tmp_path / "a", 1)
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a", float("nan"))
    assert read_json(tmp_path / "a") == 1


def test_sha256_tree_equals_what_sha256sum_says(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b").write_text("two")
    (tmp_path / "sub" / "a").write_text("one")
    listed = subprocess.run(["sha256sum", "b", "sub/a"], cwd=tmp_path, capture_output=True, check=True).stdout
    assert sha256_tree(sha256_files(tmp_path)) == hashlib.sha256(listed).hexdigest()


def test_sha256_tree_moves_with_name_content_and_presence(tmp_path: Path) -> None:
    trees = set()
    for name, text in [("a", "1"), ("a", "2"), ("b", "1"), ("c", "1")]:
        (tmp_path / name).write_text(text)
        trees.add(sha256_tree(sha256_files(tmp_path)))
    assert len(trees) == 4
