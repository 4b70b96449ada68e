import json
from pathlib import Path

import pytest

from stages.core.errors import StageError
from stages.models.safetensors_header import StoredTensor, read_header


def write(file: Path, header: object, data: bytes) -> int:
    """Write a file; where its data begin."""
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return 8 + len(text)


def test_tensors_are_told_in_the_order_of_their_bytes_whatever_the_order_in_the_header(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    header = {
        "late": {"dtype": "F32", "shape": [], "data_offsets": [6, 10]},
        "__metadata__": {"format": "pt"},
        "early": {"dtype": "BF16", "shape": [3, 1], "data_offsets": [0, 6]},
        "none": {"dtype": "F32", "shape": [0, 4], "data_offsets": [6, 6]},
    }
    first = write(file, header, bytes(10))
    assert list(read_header(file).items()) == [
        ("early", StoredTensor(file, "BF16", (3, 1), first, first + 6)),
        ("none", StoredTensor(file, "F32", (0, 4), first + 6, first + 6)),
        ("late", StoredTensor(file, "F32", (), first + 6, first + 10)),
    ]


def test_type_that_is_not_known_has_any_size(tmp_path: Path) -> None:
    write(tmp_path / "a", {"x": {"dtype": "F4", "shape": [8], "data_offsets": [0, 4]}}, bytes(4))
    assert read_header(tmp_path / "a")["x"].dtype == "F4"


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 40, b"\x05\0\0\0\0\0\0\0{}", b"version https://git-lfs.github.com/spec/v1"]
)
def test_file_that_is_no_safetensors_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(StageError, match=r"a\.safetensors.* Fetch or make it again"):
        read_header(tmp_path / "a.safetensors")
    with pytest.raises(StageError, match=r"^the base"):
        read_header(tmp_path / "a.safetensors", "the base")


def entry(start: int, stop: int, shape: object = (4,), dtype: object = "U8") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    ("header", "size", "said"),
    [
        ([], 0, "header is damaged"),
        ({"x": []}, 0, "header is damaged"),
        ({"x": {"shape": [4], "data_offsets": [0, 4]}}, 4, "header is damaged"),
        ({"x": entry(0, 4, dtype=["U8"])}, 4, "header is damaged"),
        ({"x": entry(0, 4, shape=4)}, 4, "header is damaged"),
        ({"x": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4, 8]}}, 8, "header is damaged"),
        ({"x": entry(0, 3)}, 3, "does not fit its type and shape"),
        ({"x": entry(4, 0)}, 4, "does not fit its type and shape"),
        ({"x": entry(0, 4), "y": entry(2, 6)}, 6, "overlap or leave gaps"),
        ({"x": entry(0, 4), "y": entry(5, 9)}, 9, "overlap or leave gaps"),
        ({"x": entry(1, 5)}, 5, "overlap or leave gaps"),
        ({"x": entry(0, 4)}, 3, "cut off"),
        ({"x": entry(0, 4)}, 5, "something is appended"),
    ],
)
def test_header_that_contradicts_itself_or_the_file_is_refused(
    tmp_path: Path, header: object, size: int, said: str
) -> None:
    write(tmp_path / "a", header, bytes(size))
    with pytest.raises(StageError, match=said):
        read_header(tmp_path / "a")
