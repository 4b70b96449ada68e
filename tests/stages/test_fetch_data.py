import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from stages.errors import StageError
from stages.fetch_data import FetchDataParams, fetch_data
from stages.records import records

REVISION = "c" * 40


def params(source: str = "data/custom/mine.jsonl", **changed: object) -> FetchDataParams:
    return FetchDataParams(
        **({"source": source, "revision": None, "config": None, "split": None, "limit": None} | changed)
    )


def fetched(tmp_path: Path, name: str, content: bytes, **changed: object) -> list[bytes]:
    custom = tmp_path / "custom"
    custom.mkdir(exist_ok=True)
    (custom / name).write_bytes(content)
    out = tmp_path / "raw"
    fetch_data(tmp_path / "demo.jsonl", custom, out, params(f"data/custom/{name}", **changed))
    table = pq.read_table(out / "rows.parquet")
    assert table["row"].to_pylist() == list(range(table.num_rows))
    assert json.loads((out / "source.json").read_text())["rows"] == table.num_rows
    return table["record"].to_pylist()


def refusal(tmp_path: Path, name: str, content: bytes) -> str:
    with pytest.raises(StageError) as caught:
        fetched(tmp_path, name, content)
    assert "secret" not in str(caught.value)
    assert name in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    return str(caught.value)


def parquet(rows: list[dict[str, object]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def test_jsonl_lines_come_exactly_as_they_are_even_broken(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbf{"b": 1,  "a":2}\r\n\n   \n{broken\n\xff\xfe\xfd\n{"last": 1.0}'
    assert fetched(tmp_path, "mine.jsonl", content) == [
        b'{"b": 1,  "a":2}',
        b"{broken",
        b"\xff\xfe\xfd",
        b'{"last": 1.0}',
    ]


def test_json_list_keeps_key_order(tmp_path: Path) -> None:
    assert fetched(tmp_path, "mine.json", '[{"b": 1, "a": "ü\\n"}, 3]'.encode()) == [
        '{"b":1,"a":"ü\\n"}'.encode(),
        b"3",
    ]


def test_json_object_with_one_list_gives_its_rows(tmp_path: Path) -> None:
    assert fetched(tmp_path, "mine.json", b'{"version": "1", "data": [{"a": 1}]}') == [b'{"a":1}']


def test_json_object_that_is_a_conversation_is_one_row(tmp_path: Path) -> None:
    assert len(fetched(tmp_path, "mine.json", b'{"conversations": [{"from": "human", "value": "a"}]}')) == 1


def test_json_with_one_object_a_line_is_read_as_lines(tmp_path: Path) -> None:
    assert fetched(tmp_path, "mine.json", b'{"a": 1}\n{"a": 2}\n') == [b'{"a": 1}', b'{"a": 2}']


def test_json_nan_and_lone_surrogates_survive_for_standardize_to_judge(tmp_path: Path) -> None:
    rows = fetched(tmp_path, "mine.json", b'[{"a": NaN, "b": "\\ud800"}]')
    assert json.loads(rows[0])["b"] == "\ud800"


def test_parquet_rows_keep_column_order_and_nesting(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"z": [{"from": "human", "value": "ä"}], "a": None, "bytes": b"text"},
        {"z": [], "a": 1.5, "bytes": b"\xff"},
    ]
    assert fetched(tmp_path, "mine.parquet", parquet(rows)) == [
        '{"z":[{"from":"human","value":"ä"}],"a":null,"bytes":"text"}'.encode(),
        b'{"z":[],"a":1.5,"bytes":null}',
    ]


def test_csv_with_bom_crlf_and_quoted_line_break_gives_strings(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbfprompt,answer\r\n"a ""b"",\r\nc",1\r\n\r\n,\r\n'
    rows = [json.loads(row) for row in fetched(tmp_path, "mine.csv", content)]
    assert rows == [{"prompt": 'a "b",\r\nc', "answer": "1"}, {"prompt": "", "answer": ""}]


def test_csv_line_with_other_field_count_and_bad_bytes_stay_as_rows(tmp_path: Path) -> None:
    rows = [json.loads(row) for row in fetched(tmp_path, "mine.csv", b"a,b\n1\n1,2,3\n\xe9,2\n")]
    assert rows == [["1"], ["1", "2", "3"], {"a": "\udce9", "b": "2"}]


def test_csv_field_of_a_megabyte_is_read(tmp_path: Path) -> None:
    assert len(fetched(tmp_path, "mine.csv", b"a,b\n" + b"x" * 2**20 + b",1\n")) == 1


def test_limit_takes_the_first_rows(tmp_path: Path) -> None:
    content = b"".join(b'{"n": %d}\n' % n for n in range(5000))
    assert fetched(tmp_path, "mine.jsonl", content, limit=1234)[-1] == b'{"n": 1233}'


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("mine.jsonl", b"", "no rows"),
        ("mine.jsonl", b"\n \n", "no rows"),
        ("mine.json", b"[]", "no rows"),
        ("mine.csv", b"a,b\n", "no rows"),
        ("mine.parquet", b"", "Parquet"),
        ("mine.jsonl", b"PAR1secret", "Parquet"),
        ("mine.jsonl", b"\x1f\x8bsecret", "gzip"),
        ("mine.csv", b"\xff\xfes\0e\0c\0r\0e\0t\0", "UTF-16"),
        ("mine.jsonl", b'[\n{"a": "secret"}\n]', ".json"),
        ("mine.json", b'[\n{"a": "secret"},\n{"a" "secret"}]', "line 3"),
        ("mine.json", b'[{"a": "\xffsecret"}]', "UTF-8"),
        ("mine.json", b"[" * 200_000, "deep"),
        ("mine.json", b'"secret"', "list of rows"),
        ("mine.json", b'{"a": [1], "b": ["secret"]}', "list of rows"),
        ("mine.parquet", b'{"a": "secret"}', "Parquet"),
        ("mine.parquet", parquet([{"a": "secret"}])[:-20], "Parquet"),
        ("mine.csv", b'a,b\n1,2\n"secret,2\n', "line"),
        ("mine.csv", b"a;b\nsecret;2\n", "commas"),
        ("mine.csv", b"a,a\nsecret,2\n", "same name"),
        ("mine.csv", b"\xe9,a\nsecret,2\n", "UTF-8"),
        ("mine.xlsx", b"secret", ".jsonl"),
        ("mine", b"secret", ".jsonl"),
    ],
)
def test_wrong_content_names_file_and_place_and_no_text(tmp_path: Path, name: str, content: bytes, place: str) -> None:
    assert place in refusal(tmp_path, name, content)


def test_damaged_parquet_page_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    content = bytearray(parquet([{"a": f"secret{n}" * 9} for n in range(3000)]))
    content[200:400] = b"\xff" * 200
    assert "Parquet" in refusal(tmp_path, "mine.parquet", bytes(content))


def test_line_beyond_the_longest_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.records.LONGEST_RECORD", 2**20)
    assert "line 2" in refusal(tmp_path, "mine.jsonl", b"{}\n" + b"x" * (2**20 + 1))


def test_missing_file_says_how_to_bring_it(tmp_path: Path) -> None:
    (tmp_path / "custom").mkdir()
    with pytest.raises(StageError, match="retune use --data"):
        fetch_data(tmp_path / "demo.jsonl", tmp_path / "custom", tmp_path / "raw", params())


@pytest.mark.parametrize(
    "source",
    [
        "data/custom/../outside.jsonl",
        "data/custom//etc/hostname.jsonl",
        "data/custom/link.jsonl",
        "data/custom/folder/outside.jsonl",
    ],
)
def test_file_outside_the_folder_is_refused(tmp_path: Path, source: str) -> None:
    custom = tmp_path / "custom"
    custom.mkdir()
    (tmp_path / "outside.jsonl").write_text("{}\n")
    (custom / "link.jsonl").symlink_to("../outside.jsonl")
    (custom / "folder").symlink_to("..")
    with pytest.raises(StageError, match="outside"):
        fetch_data(tmp_path / "demo.jsonl", custom, tmp_path / "raw", params(source))


def test_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    custom = tmp_path / "custom"
    custom.mkdir()
    (custom / "real.jsonl").write_text("{}\n")
    (custom / "link.jsonl").symlink_to("real.jsonl")
    fetch_data(tmp_path / "demo.jsonl", custom, tmp_path / "raw", params("data/custom/link.jsonl"))


def test_demo_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "demo.jsonl").write_text('{"a": 1}\n')
    fetch_data(tmp_path / "demo.jsonl", tmp_path, tmp_path / "raw", params("demo"))
    source = json.loads((tmp_path / "raw/source.json").read_text())
    assert (source["source"], source["rows"], list(source["files"])) == ("demo", 1, ["demo.jsonl"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"source": "owner/name", "split": "train"}, "revision must name a commit"),
        ({"source": "owner/name", "split": "train", "revision": "main"}, "revision"),
        ({"source": "owner/name", "revision": REVISION}, "split must name"),
        ({"source": "demo", "revision": REVISION}, "revision must be null"),
        ({"source": "data/custom/a.jsonl", "split": "train"}, "must be null"),
        ({"source": "mine.jsonl"}, "data/custom/FILE"),
        ({"source": "nonsense"}, "OWNER/NAME"),
        ({"source": "../etc", "revision": REVISION, "split": "train"}, "OWNER/NAME"),
        ({"source": "demo", "limit": 0}, "limit"),
    ],
)
def test_params_that_do_not_belong_together_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        params(**changed)


def test_same_source_gives_same_bytes_anywhere(tmp_path: Path) -> None:
    custom = tmp_path / "custom"
    custom.mkdir()
    (custom / "mine.parquet").write_bytes(parquet([{"b": n, "a": [str(n)]} for n in range(25_000)]))
    script = (
        "import sys; from pathlib import Path; from stages.fetch_data import *; p = Path(sys.argv[1]);"
        "fetch_data(p, p / 'custom', p / sys.argv[2], FetchDataParams(source='data/custom/mine.parquet', revision=None, config=None, split=None, limit=None));"
        "assert not {'torch', 'datasets', 'transformers', 'huggingface_hub'} & sys.modules.keys()"
    )
    for out, zone, seed in (("one", "UTC", "1"), ("two", "Asia/Tokyo", "2")):
        environment = os.environ | {"TZ": zone, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        subprocess.run([sys.executable, "-c", script, str(tmp_path), out], env=environment, check=True)
    for name in ("rows.parquet", "source.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_records_come_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "big.jsonl"
    path.write_bytes(b"{}\n" * 10 + b"x" * 10)
    assert next(iter(records(path, "big.jsonl"))) == b"{}"
