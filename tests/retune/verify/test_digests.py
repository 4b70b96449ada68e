import hashlib
import os
from pathlib import Path

import pytest

from retune.verify import digests
from retune.verify.digests import FileDigests, hash_files


def expected(content: bytes) -> FileDigests:
    return FileDigests(
        hashlib.md5(content, usedforsecurity=False).hexdigest(), hashlib.sha256(content).hexdigest(), len(content)
    )


@pytest.mark.parametrize("large", [1 << 28, 1])
def test_digests_are_those_of_hashlib_however_a_file_is_read(tmp_path: Path, monkeypatch, large: int):
    monkeypatch.setattr(digests, "LARGE", large)
    sizes = (0, 1, digests.PIECE, 4 * digests.PIECE, 9 * digests.PIECE + 17)
    contents = {tmp_path / str(size): os.urandom(size) for size in sizes}
    for path, content in contents.items():
        path.write_bytes(content)
    found, broken = hash_files(contents, "hashing")
    assert found == {path: expected(content) for path, content in contents.items()}
    assert broken == {}
    only, _ = hash_files(contents, "hashing", sha256=False)
    assert {one.sha256 for one in only.values()} == {""}
    assert {path: one.md5 for path, one in only.items()} == {path: one.md5 for path, one in found.items()}


def test_hard_link_is_read_once_and_what_is_not_there_is_told(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"x" * 1000)
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "folder").mkdir()
    names = [tmp_path / name for name in ("a", "b", "gone", "folder")]
    found, broken = hash_files(names, "hashing")
    assert found[tmp_path / "a"] is found[tmp_path / "b"]
    assert broken.keys() == {tmp_path / "gone", tmp_path / "folder"}
