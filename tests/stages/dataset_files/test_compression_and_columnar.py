"""Files that are packed, and files of columns, read by fetch_data."""

import gzip
import random
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.core.errors import StageError
from stages.dataset_files import compression as packing
from stages.dataset_files.columnar import decode_column, to_python
from stages.dataset_files.json_rows import loads
from stages.dataset_files.reader import read_rows
from tests.stages.dataset_files.support.data_files import fetch, packed, params, parquet

TEXTS = {
    ".jsonl": b'\xef\xbb\xbf{"a": 1}\r\n\n{broken\n\xff\n{"last": "\xc3\xbc"}',
    ".json": b'[{"a": 1}, {"a": 1, "a": 2},\n3]',
    ".csv": b'a,b\n"x\ny",1\n2,3\n',
    ".tsv": b"a\tb\nx\t1\n",
}


def refused(tmp_path: Path, name: str, content: bytes) -> str:
    with pytest.raises(StageError) as caught:
        fetch(tmp_path, {name: content}, params(f"data/custom/{name}"))
    assert name in str(caught.value)
    assert "secret" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_packed_text_gives_the_rows_and_places_of_the_text(tmp_path: Path, kind: str, ending: str) -> None:
    plain = fetch(tmp_path, {f"mine{kind}": TEXTS[kind]}, params(f"data/custom/mine{kind}"))
    name = f"MINE{kind}{ending}".replace("jsonl", "JSONL")
    unpacked = fetch(tmp_path, {name: packed(TEXTS[kind], ending)}, params(f"data/custom/{name}"))
    assert [(row["line"], row["record"]) for row in unpacked] == [(row["line"], row["record"]) for row in plain]


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_cut_off_packed_file_names_file_and_place(tmp_path: Path, ending: str) -> None:
    rng = random.Random(0)
    lines = b"".join(b'{"secret": "%s"}\n' % rng.randbytes(40).hex().encode() for _ in range(60_000))
    said = refused(tmp_path, f"mine.jsonl{ending}", packed(lines, ending)[:-4000])
    assert "cut off or damaged after the row in line" in said
    assert int(said.split("in line ")[1].split(";")[0]) > 10_000
    assert "cut off or damaged before the end of its first row" in refused(
        tmp_path, f"b.jsonl{ending}", packed(lines, ending)[:8]
    )
    listed = packed(b"[" + lines.strip().replace(b"\n", b",") + b"]", ending)
    assert "cut off or damaged after row " in refused(tmp_path, f"c.json{ending}", listed[:-4000])


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_damaged_packed_file_is_an_error(tmp_path: Path, ending: str) -> None:
    content = bytearray(packed(b'{"secret": 1}\n' * 5000, ending))
    content[30:50] = b"\xff" * 20
    assert "damaged" in refused(tmp_path, f"mine.jsonl{ending}", bytes(content))
    assert "damaged" in refused(tmp_path, f"b.jsonl{ending}", packed(b"{}\n{}\n", ending) + b"secret garbage")


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv"])
def test_bomb_of_short_rows_is_refused(tmp_path: Path, ending: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "LARGEST_FREE", 2**20)
    begin, row = (b"[1", b",123456") if kind == ".json" else (b"a\n", b"1234567\n")
    assert "bomb" in refused(tmp_path, f"mine{kind}{ending}", packed(begin + row * 2**20, ending))


def test_bomb_of_one_object_is_refused_before_it_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "LARGEST_FREE", 2**20)
    content = b'{"a": [\n' + b'"' + b"x" * 2**25 + b'"]}'
    assert "bomb" in refused(tmp_path, "mine.json.gz", gzip.compress(content, mtime=0))


def test_much_repeated_text_below_the_free_size_is_read(tmp_path: Path) -> None:
    assert (
        len(fetch(tmp_path, {"a.jsonl.gz": packed(b"{}\n" * 2**19, ".gz")}, params("data/custom/a.jsonl.gz"))) == 2**19
    )


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_text_of_any_size_that_packs_as_text_does_is_read(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "LARGEST_FREE", 2**10)
    lines = b"".join(b'{"n": %d, "text": "%s"}\n' % (number, b"and so on " * 20) for number in range(20_000))
    assert len(packed(lines, ending)) < len(lines) / 10
    assert (
        len(fetch(tmp_path, {f"a.jsonl{ending}": packed(lines, ending)}, params(f"data/custom/a.jsonl{ending}")))
        == 20_000
    )


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("mine.jsonl.gz", b'{"secret": 1}\n', "not packed as .gz"),
        ("mine.jsonl.zst", gzip.compress(b"{}", mtime=0), "gzip"),
        ("mine.jsonl.gz", gzip.compress(gzip.compress(b"{}", mtime=0), mtime=0), "gzip"),
        ("mine.csv.gz", gzip.compress(parquet([{"a": 1}]), mtime=0), "Parquet"),
        ("mine.jsonl", gzip.compress(b"{}", mtime=0), "gzip"),
        ("mine.jsonl", packed(b"{}", ".zst"), "zstd"),
        ("mine.arrow", parquet([{"a": "secret"}]), "Parquet"),
        ("mine.arrow", b'{"secret": 1}\n', "no Arrow file"),
        ("mine.feather", b"FEA1secret", "first version"),
        ("mine.parquet", b"ARROW1\0\0secret", "an Arrow file"),
        ("mine.json", b"\xff\xff\xff\xff\x10\0\0\0", "an Arrow stream"),
    ],
)
def test_content_that_its_ending_does_not_say_is_named(tmp_path: Path, name: str, content: bytes, kind: str) -> None:
    assert kind in refused(tmp_path, name, content)


def test_empty_packed_file_holds_no_rows(tmp_path: Path) -> None:
    assert "no rows" in refused(tmp_path, "mine.jsonl.gz", gzip.compress(b"", mtime=0))
    assert "no rows" in refused(tmp_path, "b.jsonl.gz", b"")


def ipc(table: pa.Table, new: Callable[..., Any], rows: int, **options: object) -> bytes:
    sink = pa.BufferOutputStream()
    with new(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=rows)
    return bytes(sink.getvalue().to_pybytes())


ROWS: list[dict[str, object]] = [
    {"z": [{"from": "human", "value": f"ä{number}"}], "a": None if number % 2 else number} for number in range(2500)
]


@pytest.mark.parametrize("new", [pa.ipc.new_file, pa.ipc.new_stream])
@pytest.mark.parametrize("options", [{}, {"compression": "zstd"}, {"compression": "lz4"}])
@pytest.mark.parametrize("rows", [7, 5000])
@pytest.mark.parametrize("ending", [".arrow", ".feather"])
def test_arrow_file_and_stream_give_what_parquet_gives(
    tmp_path: Path, new: Callable[..., Any], options: dict[str, object], rows: int, ending: str
) -> None:
    files = {"a.parquet": parquet(ROWS), f"b{ending}": ipc(pa.Table.from_pylist(ROWS), new, rows, **options)}
    ours, theirs = (fetch(tmp_path, files, params(f"data/custom/{name}")) for name in files)
    assert [(row["line"], row["record"]) for row in ours] == [(row["line"], row["record"]) for row in theirs]
    assert len(ours) == 2500


@pytest.mark.parametrize("new", [pa.ipc.new_file, pa.ipc.new_stream])
def test_cut_off_arrow_says_after_which_row(tmp_path: Path, new: Callable[..., Any]) -> None:
    content = ipc(pa.Table.from_pylist([{"a": f"secret{number}"} for number in range(3000)]), new, 1000)
    said = refused(tmp_path, "mine.arrow", content[: len(content) // 2])
    if new is pa.ipc.new_file:
        assert "cannot be read as Arrow: its end is missing" in said
    else:
        assert "cannot be read as Arrow after row 1000: cut off" in said


def test_parquet_without_its_end_is_cut_off_and_with_one_damaged(tmp_path: Path) -> None:
    content = parquet([{"a": f"secret{number}"} for number in range(3000)])
    for number, end in enumerate((len(content) - 20, len(content) // 2, 5, 4)):
        said = refused(tmp_path, f"mine{number}.parquet", content[:end])
        assert "cannot be read as Parquet: " in said
        assert ("its end is missing" in said) == (end != 4)
    said = refused(tmp_path, "mine.parquet", content[:-8] + b"\xff\xff\xff\x7fPAR1")
    assert "cannot be read as Parquet: cut off, damaged" in said


@pytest.mark.parametrize("ending", ["parquet", "arrow", "feather"])
def test_empty_file_of_columns_is_said_to_be_empty(tmp_path: Path, ending: str) -> None:
    assert "is empty: 0 bytes" in refused(tmp_path, f"mine.{ending}", b"")


def test_arrow_offsets_that_point_outside_are_an_error_and_no_crash(tmp_path: Path) -> None:
    values = ["secret" * 9] * 50
    content = bytearray(ipc(pa.table({"a": values}), pa.ipc.new_stream, 100))
    offsets = b"".join((54 * number).to_bytes(4, "little") for number in range(1, 51))
    assert offsets in content
    at = content.index(offsets)
    content[at : at + len(offsets)] = offsets[:-8] + b"\xff\xff\xff\x7f" * 2
    assert "Arrow" in refused(tmp_path, "mine.arrow", bytes(content))


@pytest.mark.parametrize(
    "content",
    [
        parquet([{"a": "secret"}]),
        ipc(pa.table({"a": ["secret"]}), pa.ipc.new_stream, 1),
        ipc(pa.table({"a": ["secret"]}), pa.ipc.new_file, 1),
    ],
    ids=["parquet", "stream", "file"],
)
def test_any_byte_of_columns_damaged_gives_rows_or_an_error_for_people(tmp_path: Path, content: bytes) -> None:
    name = "a.parquet" if content.startswith(b"PAR1") else "a.arrow"
    rng = random.Random(0)
    said = []
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] = rng.randrange(256)
        (tmp_path / name).write_bytes(damaged)
        try:
            list(read_rows(tmp_path / name, name))
        except StageError as error:
            said.append(str(error))
    assert said
    assert not any("secret" in text for text in said)


def bad_text() -> pa.Array:
    offsets, data = pa.array([0, 1, 3], pa.int32()).buffers()[1], pa.py_buffer(b"a\xe9\xff")
    return pa.Array.from_buffers(pa.string(), 2, [None, offsets, data])


@pytest.mark.parametrize("nested", [False, True])
def test_column_text_that_is_not_utf_8_is_a_matter_of_its_row(tmp_path: Path, nested: bool) -> None:
    column = bad_text()
    if nested:
        items = pa.StructArray.from_arrays([column], names=["value"])
        column = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), items)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": column, "b": [1, 2]}), sink)
    rows = fetch(tmp_path, {"a.parquet": sink.getvalue().to_pybytes()}, params("data/custom/a.parquet"))
    good, bad = ("a", "\udce9\udcff") if not nested else ([{"value": "a"}], [{"value": "\udce9\udcff"}])
    assert [loads(row["record"]) for row in rows] == [{"a": good, "b": 1}, {"a": bad, "b": 2}]


HARD = [
    pa.array(["a", None, "", "ü"]),
    pa.array(["a", None, "", "ü"], pa.large_string()),
    pa.array(["a", None, "", "ü"], pa.string_view()),
    pa.array(["a", None, "a", "b"]).dictionary_encode(),
    pa.array([[["a"], None, []], None, [], [["b", None]]]),
    pa.array([["a"], None, [], ["b", None]], pa.large_list(pa.string())),
    pa.array([["a"], None, [], ["b", None]], pa.list_view(pa.string())),
    pa.array([["a", "b"], None, ["c", None], ["d", "e"]], pa.list_(pa.string(), 2)),
    pa.array([{"x": [{"y": "a"}]}, None, {"x": None}, {"x": [None, {"y": None}]}]),
    pa.array([{}, None, {}, {}], pa.struct([])),
    pa.array([[("k", "v")], None, [], [("k", None)]], pa.map_(pa.string(), pa.string())),
    pa.array([b"a", None, b"\xff", b""]),
    pa.array([Decimal("1.50"), None, Decimal(0), Decimal(-2)]),
    pa.array([datetime(2026, 1, 2, tzinfo=UTC), None, datetime(1, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)]),
    pa.array([1.5, None, float("inf"), 0.0]),
    pa.array([True, None, False, True]),
    pa.nulls(4),
]


@pytest.mark.parametrize("column", HARD, ids=lambda column: str(column.type))
@pytest.mark.parametrize("part", [slice(0, 4), slice(1, 3), slice(2, 4), slice(0, 0)], ids=str)
def test_columns_beside_bad_text_equal_what_arrow_makes_of_them(column: pa.Array, part: slice) -> None:
    here = column[part]
    assert decode_column(here) == here.to_pylist()
    assert to_python(pa.record_batch([here], names=["a"])) == [{"a": value} for value in here.to_pylist()]


def test_parquet_rows_keep_no_earlier_row_groups_in_memory(tmp_path: Path) -> None:
    rng = random.Random(0)
    table = pa.table({"a": [rng.randbytes(100).hex() for _ in range(100_000)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=5000, use_dictionary=False)
    size = table.nbytes
    del table
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in read_rows(tmp_path / "a.parquet", "a.parquet")]
    assert len(held) == 100_000
    assert max(held) < size / 5
