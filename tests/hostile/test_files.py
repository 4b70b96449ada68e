"""Files that are damaged, of another kind, or odd as a whole: read to the row, or one error that names the file and the place."""

import gzip
import json

import pyarrow as pa
import pytest

from stages.core.errors import StageError
from stages.dataset_files.reader import read_rows
from tests.hostile.made import (
    arrow,
    dialogue,
    good,
    good_csv,
    good_lines,
    good_rows,
    gzip_bomb,
    line,
    parquet,
    zipped,
    zstd,
    zstd_bomb,
)
from tests.hostile.pipeline import MARKER, Project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

ROWS = 6
DEEPER = 100_000
TEXT = f"{MARKER} " * 50
MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
LIST = pa.list_(MESSAGE)


def middle_broken(content: bytes) -> bytes:
    """The same with 64 bytes in its middle turned over."""
    at = len(content) // 2
    return content[:at] + bytes(255 - byte for byte in content[at : at + 64]) + content[at + 64 :]


def parquet_of(kind: pa.DataType, values: list[object]) -> bytes:
    """A Parquet file with the column `messages` of any type."""
    return parquet(pa.table({"messages": pa.array(values, kind)}))


BIG_PARQUET = parquet(pa.Table.from_pylist(good_rows(5_000)), row_group_size=500, compression="snappy")
BIG_ARROW = arrow(stream=True, table=pa.Table.from_pylist(good_rows(2_000)))

REFUSED: dict[str, tuple[str, bytes, str]] = {
    # nothing in it
    "empty_jsonl": ("x.jsonl", b"", ""),
    "empty_json": ("x.json", b"", ""),
    "empty_csv": ("x.csv", b"", ""),
    "empty_parquet": ("x.parquet", b"", ""),
    "empty_arrow": ("x.arrow", b"", ""),
    "empty_gz": ("x.jsonl.gz", b"", ""),
    "empty_zst": ("x.jsonl.zst", b"", ""),
    "gzip_of_nothing": ("x.jsonl.gz", gzip.compress(b""), ""),
    "blank_lines": ("x.jsonl", b"\n\r\n   \n\t\n" * 50, ""),
    "blank_json": ("x.json", b"  \n \n", ""),
    "bom_alone": ("x.jsonl", b"\xef\xbb\xbf", ""),
    "list_of_nothing": ("x.json", b"[]", ""),
    "header_alone": ("x.csv", b"prompt,completion\r\n", ""),
    "parquet_without_rows": ("x.parquet", parquet_of(LIST, []), ""),
    # JSON that is no list of rows
    "json_of_an_empty_object": ("x.json", b"{}", ""),
    "json_of_null": ("x.json", b"null", ""),
    "json_of_a_number": ("x.json", b"12", ""),
    "json_of_a_text": ("x.json", json.dumps(TEXT).encode(), ""),
    "json_of_two_lists": ("x.json", line({"a": good_rows(), "b": good_rows()}), ""),
    "json_cut_off": ("x.json", json.dumps(good_rows(), indent=1).encode()[:-200], "line"),
    "json_with_a_tail": ("x.json", json.dumps(good_rows()).encode() + TEXT.encode(), "line"),
    "json_with_two_commas": ("x.json", json.dumps(good_rows()).replace("}, {", "},, {").encode(), "line"),
    "json_wrongly_closed": ("x.json", b'[{"a": 1}}', "line"),
    "json_of_text_in_lines": ("x.json", f"{MARKER}\n{MARKER}\n".encode(), ""),
    "jsonl_of_one_json_value": ("x.jsonl", json.dumps(good_rows(), indent=1).encode(), ""),
    # text of another coding
    "utf_16_jsonl": ("x.jsonl", good_lines().decode().encode("utf-16"), "UTF-16"),
    "utf_16_be_without_a_mark": ("x.jsonl", good_lines().decode().encode("utf-16-be"), "UTF-16"),
    "utf_16_csv": ("x.csv", good_csv().decode().encode("utf-16"), "UTF-16"),
    "utf_32_jsonl": ("x.jsonl", good_lines().decode().encode("utf-32"), "UTF-"),
    "utf_32_le_without_a_mark": ("x.json", json.dumps(good_rows()).encode("utf-32-le"), "UTF-"),
    # Parquet and Arrow
    "parquet_cut_off": ("x.parquet", parquet()[:-100], ""),
    "parquet_cut_in_the_middle": ("x.parquet", BIG_PARQUET[: len(BIG_PARQUET) // 2], ""),
    "parquet_head_alone": ("x.parquet", b"PAR1", ""),
    "parquet_of_noise": ("x.parquet", b"PAR1" + bytes(range(256)) * 8 + b"PAR1", ""),
    "parquet_broken_in_the_middle": ("x.parquet", middle_broken(BIG_PARQUET), "row"),
    "parquet_with_two_columns_of_one_name": (
        "x.parquet",
        parquet(pa.Table.from_arrays([pa.array([TEXT]), pa.array([TEXT])], names=["prompt", "prompt"])),
        "same name",
    ),
    "parquet_of_numbers": ("x.parquet", parquet_of(pa.int64(), [1, 2, 3]), "messages"),
    "parquet_of_lists_of_numbers": ("x.parquet", parquet_of(pa.list_(pa.int8()), [[1], [2]]), "messages"),
    "parquet_without_columns": ("x.parquet", parquet(pa.table({})), ""),
    "arrow_stream_cut_off": ("x.arrow", BIG_ARROW[: len(BIG_ARROW) // 2], ""),
    "arrow_stream_head_alone": ("x.arrow", b"\xff\xff\xff\xff\x10\x00\x00\x00", ""),
    "arrow_stream_with_a_huge_head": ("x.arrow", b"\xff\xff\xff\xff\xff\xff\xff\x7f" + b"\0" * 64, ""),
    "arrow_file_cut_off": ("x.arrow", arrow(stream=False)[:-80], ""),
    "arrow_file_head_alone": ("x.arrow", b"ARROW1\0\0", ""),
    # packed
    "gzip_cut_off": ("x.jsonl.gz", gzip.compress(good_lines(500))[:-300], ""),
    "gzip_broken": ("x.jsonl.gz", middle_broken(gzip.compress(good_lines(500))), ""),
    "gzip_of_a_wrong_sum": ("x.jsonl.gz", gzip.compress(good_lines())[:-8] + b"\1\2\3\4\0\0\0\0", ""),
    "gzip_of_a_zip": ("x.jsonl.gz", gzip.compress(zipped(good_lines())), "zip"),
    "gzip_of_a_gzip": ("x.jsonl.gz", gzip.compress(gzip.compress(good_lines())), "gzip"),
    "gzip_with_a_tail": ("x.jsonl.gz", gzip.compress(good_lines()) + TEXT.encode(), ""),
    "zstd_cut_off": ("x.jsonl.zst", zstd(good_lines(500))[:-30], ""),
    "zstd_broken": ("x.jsonl.zst", middle_broken(zstd(good_lines(500))), ""),
    # larger than they look
    "gzip_bomb_of_one_line": ("x.jsonl.gz", gzip_bomb(b"z", 2**31), ""),
    "gzip_bomb_of_blank_lines": ("x.jsonl.gz", gzip_bomb(b"\n", 2**31), "bomb"),
    "gzip_bomb_of_tiny_rows": ("x.jsonl.gz", gzip_bomb(b"{}\n", 2**31), "bomb"),
    "gzip_bomb_in_json": ("x.json.gz", gzip_bomb(b" ", 2**31), "bomb"),
    "gzip_bomb_in_csv": ("x.csv.gz", gzip_bomb(b"z", 2**31), ""),
    "zstd_bomb_of_one_line": ("x.jsonl.zst", zstd_bomb(b"z", 2**31), ""),
    "zstd_bomb_of_blank_lines": ("x.jsonl.zst", zstd_bomb(b"\n", 2**31), "bomb"),
    "line_without_an_end": ("x.jsonl", b"z" * (65 * 2**20), "line 1"),
    # CSV
    "csv_quote_never_closed": ("x.csv", good_csv() + f'"{TEXT}\r\n'.encode() * 3, "line"),
    "csv_text_behind_a_quote": ("x.csv", good_csv() + f'"{MARKER}" {MARKER},x\r\n'.encode(), "line"),
    "csv_of_one_column": ("x.csv", f"text\r\n{MARKER}\r\n{MARKER}\r\n".encode(), "text"),
    "csv_of_semicolons": ("x.csv", f"prompt;completion,x\r\n{MARKER};{MARKER}\r\n".encode(), "semicolons"),
    "csv_with_two_columns_of_one_name": ("x.csv", f"prompt,prompt\r\n{MARKER},{MARKER}\r\n".encode(), "same name"),
    "csv_of_10000_columns": ("x.csv", (",".join(f"column{n}" for n in range(10_000)) + "\r\n" + f"{MARKER}," * 9_999 + "\r\n").encode(), "column0"),
    "csv_header_of_other_bytes": ("x.csv", b"prompt,compl\xe9tion\r\na,b\r\n", "UTF-8"),
    # names
    "no_ending": ("rows", good_lines(), "end in"),
    "unknown_ending": ("rows.txt", good_lines(), "end in"),
    "ending_of_upper_case_in_a_name": ("jsonl", good_lines(), "end in"),
    "pickle": ("rows.pkl", b"\x80\x04cos\nsystem\n(S'true'\ntR.", "end in"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_damaged_or_odd_file_ends_in_an_error_that_names_it(project: Project, case: str) -> None:
    name, content, words = REFUSED[case]
    project.write(name, content)
    outcome = project.run(name)
    assert outcome.error is not None
    assert name in outcome.error
    assert words in outcome.error
    assert len(outcome.error) < 3_000


READ: dict[str, tuple[str, bytes]] = {
    "lf": ("x.jsonl", good_lines()),
    "crlf": ("x.jsonl", good_lines().replace(b"\n", b"\r\n")),
    "bom": ("x.jsonl", b"\xef\xbb\xbf" + good_lines()),
    "no_line_end_at_the_end": ("x.jsonl", good_lines().rstrip()),
    "blank_lines_between": ("x.jsonl", good_lines().replace(b"\n", b"\n\n \r\n")),
    "upper_case_ending": ("x.JSONL", good_lines()),
    "bom_in_json": ("x.json", b"\xef\xbb\xbf" + json.dumps(good_rows()).encode()),
    "lines_in_json": ("x.json", good_lines()),
    "rows_in_an_object": ("x.json", json.dumps({"version": 1, "data": good_rows()}).encode()),
    "indented_json": ("x.json", json.dumps(good_rows(), indent=4).encode()),
    "csv": ("x.csv", good_csv()),
    "csv_lf": ("x.csv", good_csv().replace(b"\r\n", b"\n")),
    "csv_bom": ("x.csv", b"\xef\xbb\xbf" + good_csv()),
    "csv_cr": ("x.csv", good_csv().replace(b"\r\n", b"\r")),
    "csv_formula": ("x.csv", good_csv().replace(f"{MARKER} question".encode(), f"=cmd|' /C calc'!A0 @{MARKER}".encode())),
    "parquet": ("x.parquet", parquet()),
    "parquet_dictionary": ("x.parquet", parquet(use_dictionary=True, compression="zstd")),
    "arrow_stream": ("x.arrow", arrow(stream=True)),
    "arrow_file": ("x.arrow", arrow(stream=False)),
    "gzip": ("x.jsonl.gz", gzip.compress(good_lines())),
    "gzip_in_members": ("x.jsonl.gz", b"".join(gzip.compress(line(row)) for row in good_rows())),
    "gzip_padded_with_nul": ("x.jsonl.gz", gzip.compress(good_lines()) + b"\0" * 512),
    "gzip_json": ("x.json.gz", gzip.compress(json.dumps(good_rows()).encode())),
    "gzip_csv": ("x.csv.gz", gzip.compress(good_csv())),
    "zstd": ("x.jsonl.zst", zstd(good_lines())),
    "zstd_in_frames": ("x.jsonl.zst", b"".join(zstd(line(row)) for row in good_rows())),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_an_odd_file_that_is_whole_is_read_to_its_last_row(project: Project, case: str) -> None:
    name, content = READ[case]
    project.write(name, content)
    outcome = project.run(name, standardize={"heldout_fraction": 0.0})
    assert outcome.error is None
    assert outcome.kept == {"train": ROWS, "heldout": 0}
    assert outcome.rejected == []


SET_ASIDE: dict[str, tuple[str, bytes, dict[int, str]]] = {
    "csv_ragged": ("x.csv", good_csv() + f"{MARKER}\r\n{MARKER},b,c\r\n".encode(), {8: "not_an_object", 9: "not_an_object"}),
    "csv_nul": ("x.csv", good_csv() + f"{MARKER}\0,b\r\n".encode(), {8: "nul_character"}),
    "csv_other_bytes": ("x.csv", good_csv() + f"{MARKER}\udce9,b\r\n".encode(errors="surrogateescape"), {8: "invalid_unicode"}),
    "csv_empty_fields": ("x.csv", good_csv() + b",\r\n" + f"{MARKER},\r\n".encode(), {8: "empty_content", 9: "empty_content"}),
    "parquet_nulls": (
        "x.parquet",
        parquet_of(LIST, [*(row["messages"] for row in good_rows()), None, [], [None], [{"role": None, "content": None}]]),
        {7: "no_messages", 8: "no_messages", 9: "layout", 10: "unknown_role"},
    ),
    "json_rows_of_other_kinds": (
        "x.json",
        json.dumps([*good_rows(), None, 1, MARKER, [good(7)], {"messages": [{"role": "user", "content": {"a": MARKER}}]}]).encode(),
        {7: "not_an_object", 8: "not_an_object", 9: "not_an_object", 10: "not_an_object", 11: "content_not_text"},
    ),
    "json_row_nested_100000_deep": ("x.json", b"[" + good_lines().strip().replace(b"\n", b",") + b"," + b"[" * DEEPER + b"]" * DEEPER + b"]", {7: "invalid_json"}),
    "json_row_with_nan": ("x.json", json.dumps([*good_rows(), dialogue(float("nan"))]).encode(), {7: "content_not_text"}),
}  # fmt: skip


@pytest.mark.parametrize("case", SET_ASIDE)
def test_odd_rows_of_other_kinds_of_file_are_set_aside_with_their_place(project: Project, case: str) -> None:
    name, content, expected = SET_ASIDE[case]
    project.write(name, content)
    outcome = project.run(name, standardize={"heldout_fraction": 0.0})
    assert outcome.error is None
    assert outcome.rules() == {(name, place): rule for place, rule in expected.items()}
    assert outcome.kept["train"] == ROWS


def test_lines_parted_by_carriage_returns_alone_are_not_dropped_in_silence(project: Project) -> None:
    project.write("x.jsonl", good_lines().replace(b"\n", b"\r"))
    outcome = project.run("x.jsonl", standardize={"heldout_fraction": 0.0})
    assert outcome.kept == {"train": ROWS, "heldout": 0} or outcome.error is not None


KINDS: dict[str, bytes] = {
    "jsonl": good_lines(),
    "json": json.dumps(good_rows(), indent=1).encode(),
    "csv": good_csv(),
    "parquet": parquet(),
    "arrow": arrow(stream=True),
    "feather": arrow(stream=False),
    "jsonl.gz": gzip.compress(good_lines()),
    "jsonl.zst": zstd(good_lines()),
    "zip": zipped(good_lines()),
}
ENDINGS = ["jsonl", "json", "csv", "parquet", "arrow", "jsonl.gz", "json.gz", "csv.gz", "jsonl.zst"]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_under_another_kinds_name_is_read_whole_or_refused_by_name(
    project: Project, kind: str, ending: str
) -> None:
    name = f"x.{ending}"
    path = project.write(name, KINDS[kind])
    try:
        list(read_rows(path, name))
    except StageError as error:
        message = str(error)
    else:
        outcome = project.run(name, standardize={"heldout_fraction": 0.0})
        if outcome.error is None:
            assert (outcome.kept, outcome.rejected) == ({"train": ROWS, "heldout": 0}, [])
            return
        message = outcome.error
    assert name in message
    assert MARKER not in message
