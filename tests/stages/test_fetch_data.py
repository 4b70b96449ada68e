import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from stages.core.errors import StageError
from stages.dataset_files.reader import find_separator, read_rows
from stages.fetch_data import fetch_data
from tests.project import ROOT
from tests.stages.dataset_files.support.data_files import REVISION, fetch, params, parquet


def fetched(tmp_path: Path, name: str, content: bytes, **changed: object) -> list[bytes]:
    return [row["record"] for row in located(tmp_path, name, content, **changed)]


def located(tmp_path: Path, name: str, content: bytes, **changed: object) -> list[dict[str, object]]:
    return fetch(tmp_path, {name: content}, params(f"data/custom/{name}", **changed))


def refusal(tmp_path: Path, name: str, content: bytes) -> str:
    with pytest.raises(StageError) as caught:
        fetched(tmp_path, name, content)
    assert "secret" not in str(caught.value)
    assert name in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    return str(caught.value)


def test_jsonl_lines_come_exactly_as_they_are_even_broken(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbf{"b": 1,  "a":2}\r\n\n   \n{broken\n\xff\xfe\xfd\n{"last": 1.0}'
    assert fetched(tmp_path, "mine.jsonl", content) == [
        b'{"b": 1,  "a":2}',
        b"{broken",
        b"\xff\xfe\xfd",
        b'{"last": 1.0}',
    ]


def test_json_rows_come_exactly_as_they_are_in_the_list(tmp_path: Path) -> None:
    content = (
        b'\xef\xbb\xbf[ {"b": 1,\r\n "a": "\xc3\xbc\\"]}"} ,3, {"a": 1, "a": 2},\n{"n": NaN, "s": "\\ud800\xff\0"} ]\n'
    )
    assert fetched(tmp_path, "mine.json", content) == [
        b'{"b": 1,\r\n "a": "\xc3\xbc\\"]}"}',
        b"3",
        b'{"a": 1, "a": 2}',
        b'{"n": NaN, "s": "\\ud800\xff\0"}',
    ]


def test_json_rows_across_pieces_of_the_file_are_whole(tmp_path: Path) -> None:
    rows = [b'{"a": "%s", "b": ["\\\\", {"c": "]"}]}' % (b'x\\"[{' * (number * 9973 % 70_000)) for number in range(60)]
    assert fetched(tmp_path, "mine.json", b"[" + b" ,\n".join(rows) + b"]") == rows


def test_json_row_nested_a_thousand_deep_is_a_row(tmp_path: Path) -> None:
    deep = b"[" * 1000 + b"]" * 1000
    assert fetched(tmp_path, "mine.json", b'[{"a": %s}, 1]' % deep)[0] == b'{"a": %s}' % deep


def test_json_object_with_one_list_gives_its_rows(tmp_path: Path) -> None:
    assert fetched(tmp_path, "mine.json", b'{"version": "1", "data": [{"a": 1}, {"a": 1, "a": 2}]}') == [
        b'{"a": 1}',
        b'{"a": 1, "a": 2}',
    ]


def test_json_object_that_is_a_conversation_is_one_row(tmp_path: Path) -> None:
    assert len(fetched(tmp_path, "mine.json", b'{"conversations": [{"from": "human", "value": "a"}]}')) == 1


def test_json_with_one_object_a_line_is_read_as_lines(tmp_path: Path) -> None:
    assert fetched(tmp_path, "mine.json", b'{"a": 1}\n{"a": 2}\n') == [b'{"a": 1}', b'{"a": 2}']


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


def test_places_are_lines_where_rows_begin_or_numbers_of_rows(tmp_path: Path) -> None:
    cases = {
        "a.jsonl": (b"\n{}\n \n{}\n", [2, 4]),
        "a.csv": (b'a,b\r\n"x\r\ny",1\r\n\r\n2,"\n\n"\n3,4', [2, 5, 8]),
        "a.tsv": (b"a\tb\n1\t2\n", [2]),
        "a.json": (b"[\n1,\n\n2]", [1, 2]),
        "b.json": (b'{"n": 1}\n\n{"n": 2}\n', [1, 3]),
        "a.parquet": (parquet([{"n": 1}] * 2500), list(range(1, 2501))),
    }
    for name, (content, places) in cases.items():
        rows = located(tmp_path, name, content)
        assert [row["line"] for row in rows] == places, name
        assert {row["file"] for row in rows} == {name}


def test_tsv_gives_strings_as_csv_does(tmp_path: Path) -> None:
    assert fetched(tmp_path, "mine.tsv", b'a\tb\n"x\ty"\t1,5\n') == [b'{"a":"x\\ty","b":"1,5"}']


def test_csv_line_with_other_field_count_and_bad_bytes_stay_as_rows(tmp_path: Path) -> None:
    rows = [json.loads(row) for row in fetched(tmp_path, "mine.csv", b"a,b\n1\n1,2,3\n\xe9,2\n")]
    assert rows == [["1"], ["1", "2", "3"], {"a": "\udce9", "b": "2"}]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "bom"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
@pytest.mark.parametrize("separator", [b";", b",", b"\t", b"|", b"^", b"\xc2\xa7"])
@pytest.mark.parametrize("name", ["mine.csv", "mine.tsv"])
def test_csv_line_that_says_what_separates_is_no_header(
    tmp_path: Path, name: str, separator: bytes, end: bytes, mark: bytes
) -> None:
    lines = [b"a:1", b"2:3", b'"x', b'y":4', b"", b"5:6"]
    content = mark + end.join([b"sep=:", *lines]).replace(b":", separator)
    rows = located(tmp_path, name, content)
    text = f"x{end.decode()}y"
    assert [(row["line"], json.loads(bytes(row["record"]))) for row in rows] == [  # type: ignore[arg-type]
        (3, {"a": "2", "1": "3"}),
        (4, {"a": text, "1": "4"}),
        (7, {"a": "5", "1": "6"}),
    ]
    assert [
        row["record"] for row in located(tmp_path, name, content.replace(b"sep=" + separator, b'"SEP=%s"' % separator))
    ] == [row["record"] for row in rows]


@pytest.mark.parametrize("header", ["sep=", "sep=a", "sep=ab", "sep", 'sep=""'])
def test_csv_column_whose_name_begins_alike_is_a_header(tmp_path: Path, header: str) -> None:
    [row] = fetched(tmp_path, "mine.csv", f"{header}\n1\n".encode())
    assert list(json.loads(row).values()) == ["1"]


def test_separators_are_told_as_they_are(tmp_path: Path) -> None:
    for line, said in (
        ("sep=;", "semicolons"),
        ("sep=|", "'|'"),
        ("a;b", "semicolons"),
        ("a,b", "commas"),
        ("a", "commas"),
    ):
        (tmp_path / "a.csv").write_text(f"\ufeff{line}\r\n1,2\r\n")
        assert find_separator(tmp_path / "a.csv", "a.csv") == said


def test_csv_field_of_a_megabyte_is_read(tmp_path: Path) -> None:
    assert len(fetched(tmp_path, "mine.csv", b"a,b\n" + b"x" * 2**20 + b",1\n")) == 1


@pytest.mark.parametrize(
    ("limit", "max_rows", "said"),
    [
        (None, None, "401 of 401 rows from data/custom/mine.jsonl"),
        (None, 20, "20 of 401 rows from data/custom/mine.jsonl"),
        (50, None, "the first 50 rows (fetch_data.limit) from data/custom/mine.jsonl"),
        (50, 20, "20 of the first 50 rows (fetch_data.limit) from data/custom/mine.jsonl"),
        (500, None, "401 of 401 rows from data/custom/mine.jsonl"),
    ],
)
def test_log_says_whether_the_limit_ended_a_source(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, limit: int | None, max_rows: int | None, said: str
) -> None:
    content = b"".join(b'{"n": %d}\n' % n for n in range(401))
    caplog.set_level("INFO", "retune")
    fetched(tmp_path, "mine.jsonl", content, limit=limit, max_rows=max_rows)
    assert caplog.messages == [f"{said} (mine.jsonl)"]


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
        ("mine.json", b"", "no rows"),
        ("mine.json", b" \n", "no rows"),
        ("mine.parquet", b"", "mine.parquet is empty"),
        ("mine.parquet", b"\x1f\x8bsecret", "it is gzip"),
        ("mine.json", parquet([{"a": "secret"}]), "it is Parquet"),
        ("mine.jsonl", b"PAR1secret", "Parquet"),
        ("mine.jsonl", b"\x1f\x8bsecret", "gzip"),
        ("mine.csv", b"\xff\xfes\0e\0c\0r\0e\0t\0", "UTF-16"),
        ("mine.jsonl", b'[\n{"a": "secret"}\n]', ".json"),
        ("mine.jsonl", b'[{"a": "secret"}, {"a": 2}]\n', "one list on one line"),
        ("mine.json", b'[\n{"a": "secret"},\n{"a": "secret"', "line 3, after 1 row: the text ends"),
        ("mine.json", b'[\n{"a": "secret"},\n{"a": "secret', "line 3, after 1 row: the text ends"),
        ("mine.json", b'[{"a": "secret"},\n,{"a": 1}]', "line 2, after 1 row: nothing stands between two commas"),
        ("mine.json", b'[{"a": 1}, 2,\n]', "line 1, after 2 rows: a comma stands before the end of the list"),
        ("mine.json", b'{"a": "secret",\n}', "line 1, after 1 key: a comma stands before the end of the object"),
        ("mine.json", b'[\n,{"a": "secret"}]', "line 2, after 0 rows: nothing stands before the first comma"),
        (
            "mine.json",
            b'[{"a": 1},\n{"a": 2}\n{"a": "secret"}]',
            "line 3, between row 2 and row 3: the comma is missing",
        ),
        ("mine.json", b"[[1] [2]]", "line 1, between row 1 and row 2: the comma is missing"),
        ("mine.json", b'{"v": 1,\n"data": [\n{"a": 1},\n {"a": "secret"} {}]}', "line 4, between row 2 and row 3"),
        ("mine.json", b'{"data": [1]\n"more": [2]}', "line 2, between key 1 and key 2: the comma is missing"),
        ("mine.json", b'{"a": "secret"} {"a": 2}', "line 1: another object stands behind the first; put [ ] around"),
        ("mine.json", b'{\n"a": "secret"}\n\n{\n"a": 2}\n', "line 4: another object stands behind the first"),
        ("mine.json", b'{"a": "secret"},\n{"a": 2}\n', "line 1: another object stands behind the first"),
        ("mine.json", b'[{"a": "secret"}\n}', "line 2"),
        ("mine.json", b'[{"a": "secret"}]\n [1]', "line 2, after 1 row: something stands behind its end"),
        ("mine.json", b"[" * 200_000, "the text ends"),
        ("mine.json", b'[\0{\0"\0s\0e\0c\0', "UTF-16"),
        ("mine.json", b'"secret"', "list of rows"),
        ("mine.json", b'{"a": [1], "b": ["secret"]}', "list of rows"),
        ("mine.parquet", b'{"a": "secret"}', "Parquet"),
        ("mine.parquet", parquet([{"a": "secret"}])[:-20], "Parquet"),
        ("mine.csv", b'a,b\n1,2\n"secret,2\n', "line"),
        (
            "mine.csv",
            b'a,b\n1,2\n\n1,"x\ny"\n"",secret "quoted"\n3,"secret\n4,5\n',
            "mine.csv, line 7: a quote opens there and is not",
        ),
        ("mine.csv", b'a,b\n"x\n""y","a ""secret""\n4,5\n', "mine.csv, line 3: a quote opens there and is not closed"),
        ("mine.csv", b'a,b\n1,2\n3,"secret\n4,"5"\n', "line 4: text stands behind a closing quote"),
        ("mine.csv", b'a,b\n1,2\n3,"secret\n4,"5"\n', "a quote opens in line 3"),
        ("mine.csv", b"a;b,c\nsecret;2\n", "has commas and semicolons"),
        ("mine.csv", b"a|b\nsecret|2\n", "not separated by commas, semicolons or tabs"),
        ("mine.tsv", b"a,b\nsecret,2\n", "tabs"),
        ("mine.csv", b"a,a\nsecret,2\n", "same name"),
        (
            "mine.csv",
            b"\xe9,a\nsecret,2\n",
            "its header is not UTF-8; the file looks like Windows-1252 (Excel's older CSV)",
        ),
        ("mine.csv", b"sep=,\na;b\nsecret;2\n", "not separated by commas, as its first line says"),
        ("mine.csv", b"sep=|\na;b\nsecret;2\n", "not separated by '|', as its first line says"),
        ("mine.csv", b'sep=;\na;b\n1;"2\n3;"secret\n', "line 4: text stands behind a closing quote"),
        ("mine.csv", b'sep=;\na;b\n1;2\n3;"secret\n', "line 4: a quote opens there and is not closed"),
        ("mine.csv", b"sep=;\n", "no rows"),
        ("mine.ods", b"secret", ".jsonl"),
        ("mine", b"secret", ".jsonl"),
    ],
)
def test_wrong_content_names_file_and_place_and_no_text(tmp_path: Path, name: str, content: bytes, place: str) -> None:
    assert place in refusal(tmp_path, name, content)


def test_damaged_parquet_page_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    content = bytearray(parquet([{"a": f"secret{n}" * 9} for n in range(3000)]))
    content[200:400] = b"\xff" * 200
    assert "Parquet" in refusal(tmp_path, "mine.parquet", bytes(content))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mine.jsonl", b"{}\n" + b"x" * (65 * 2**20)),
        ("mine.json", b'[{},\n"' + b"x" * (65 * 2**20) + b'"]'),
        ("mine.csv", b"a,b\n" + b"x" * (65 * 2**20)),
    ],
)
def test_row_beyond_the_longest_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    assert "line 2" in refusal(tmp_path, name, content)


def test_missing_file_says_how_to_bring_it(tmp_path: Path) -> None:
    (tmp_path / "custom").mkdir()
    with pytest.raises(StageError, match="retune use --data"):
        fetch_data(tmp_path / "demo.jsonl", tmp_path / "custom", tmp_path / "raw", params())


def test_demo_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "demo.jsonl").write_text('{"a": 1}\n')
    fetch_data(tmp_path / "demo.jsonl", tmp_path, tmp_path / "raw", params("demo"))
    source = json.loads((tmp_path / "raw/source.json").read_text())
    assert source["rows"] == 1
    assert (source["sources"][0]["source"], list(source["sources"][0]["files"])) == ("demo", ["demo.jsonl"])


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
        ({"source": "demo", "weight": 0}, "weight"),
        ({"source": "demo", "weight": float("inf")}, "weight"),
        ({"source": "demo", "max_rows": 0}, "max_rows"),
        ({"source": "data/custom/a.jsonl.gz", "config": "b"}, "must be null"),
        ({"source": "demo", "columns": {"prompt": "a"}}, "answer"),
        ({"source": "demo", "columns": {"messages": "a", "prompt": "b"}}, "prompt"),
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
        "fetch_data(p, p / 'custom', p / sys.argv[2], FetchDataParams(limit=None, sources=[dict(source='data/custom/mine.parquet', revision=None, config=None, split=None, columns=None, weight=None, max_rows=20_000)]));"
        "assert not {'torch', 'datasets', 'transformers', 'huggingface_hub', 'httpx', 'pandas'} & sys.modules.keys()"
    )
    for out, zone, seed in (("one", "UTC", "1"), ("two", "Asia/Tokyo", "2")):
        environment = os.environ | {"TZ": zone, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", script, str(tmp_path), out], env=environment, check=True)
    for name in ("rows.parquet", "source.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_any_sizes_of_batch_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"f/{number}.jsonl": b'{"n": %d}\n' % number * (number * 777) for number in range(1, 8)}
    fetch(tmp_path, files, params("data/custom/f", max_rows=15_000))
    monkeypatch.setattr("stages.fetch_data.BATCH_ROWS", 7)
    monkeypatch.setattr("stages.fetch_data.BATCH_BYTES", 30)
    fetch(tmp_path, files, params("data/custom/f", max_rows=15_000))
    for name in ("rows.parquet", "source.json"):
        assert (tmp_path / "raw0" / name).read_bytes() == (tmp_path / "raw1" / name).read_bytes()


def test_object_too_large_to_be_read_whole_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.dataset_files.reader.LARGEST_OBJECT", 2**20)
    assert "one object of more than 1 MiB" in refusal(tmp_path, "mine.json", b'{"data": ["%s"]}' % (b"secret" * 2**18))


def test_list_a_line_is_a_row_a_line(tmp_path: Path) -> None:
    lists = b'[{"role": "user", "content": "a"}]\n[{"role": "user", "content": "b"}]'
    assert len(fetched(tmp_path, "mine.jsonl", lists)) == 2
    assert len(fetched(tmp_path, "mine.jsonl", b"[1, 2]")) == 1


def test_records_come_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "big.jsonl"
    path.write_bytes(b"{}\n" * 10 + b"x" * 10)
    assert next(iter(read_rows(path, "big.jsonl"))) == (1, b"{}")


@pytest.mark.parametrize("separator", [b",", b";", b"\t"])
def test_csv_separator_is_the_one_in_its_first_line(tmp_path: Path, separator: bytes) -> None:
    content = b'a|b"\n1,5|"x;y\tz"\n'.replace(b'b"', b'"b,c;d"').replace(b"1,5", b'"1,5"').replace(b"|", separator)
    assert [json.loads(row) for row in fetched(tmp_path, "mine.csv", content)] == [{"a": "1,5", "b,c;d": "x;y\tz"}]
