"""The rows of JSON text as pieces of it, against a JSON reader, for any cut of the file."""

import io
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.core.errors import StageError
from stages.dataset_files import json_rows as json_text
from stages.dataset_files.json_rows import Pieces, read_rows_of_object

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from(['"', "\\", "[", "},"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(VALUES, max_size=8),
    indent=st.sampled_from([None, 0, 2]),
    ascii_only=st.booleans(),
    chunk=st.integers(1, 40),
    begun=st.integers(1, 10),
)
def test_pieces_are_the_elements_that_a_json_reader_finds(
    rows: list[object], indent: int | None, ascii_only: bool, chunk: int, begun: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_text, "CHUNK", chunk)
    text = f" {json.dumps(rows, indent=indent, ensure_ascii=ascii_only)}\n".encode()
    pieces = list(Pieces(io.BytesIO(text[begun:]), "x.json", None, text[:begun]))
    assert [json.loads(piece) for piece in pieces] == rows
    assert all(piece == piece.strip() for piece in pieces)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(VALUES, min_size=1, max_size=5), cut=st.integers(1, 50), chunk=st.integers(1, 40))
def test_pieces_of_cut_off_text_are_an_error(
    rows: list[object], cut: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_text, "CHUNK", chunk)
    text = json.dumps(rows).encode()
    with pytest.raises(StageError, match="the text ends before its list does"):
        list(Pieces(io.BytesIO(text[: max(0, len(text) - cut)] or b"["), "x.json", None))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.dictionaries(st.text(max_size=5), VALUES, max_size=3), min_size=2, max_size=5),
    where=st.integers(0, 3),
    between=st.sampled_from(["", " ", "\n", "\n\n  "]),
    wrapped=st.booleans(),
    chunk=st.integers(1, 40),
)
def test_comma_that_is_missing_is_an_error_with_its_rows_and_line(
    rows: list[object], where: int, between: str, wrapped: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_text, "CHUNK", chunk)
    texts = [json.dumps(row) for row in rows]
    where = min(where, len(rows) - 2)
    before = "[\n" + ",\n".join(texts[: where + 1]) + between
    text = before + ",\n".join(texts[where + 1 :]) + "]"
    if wrapped:
        before, text = '{"version": 1,\n\n "data":\n' + before, '{"version": 1,\n\n "data":\n' + text + "}"
    with pytest.raises(StageError) as caught:
        list(
            read_rows_of_object(text.encode(), "x.json")
            if wrapped
            else Pieces(io.BytesIO(text.encode()), "x.json", None)
        )
    line = before.count("\n") + 1
    place = f"line {line}, between row {where + 1} and row {where + 2}: the comma is missing"
    assert str(caught.value) == f"x.json is not JSON: {place}"


@given(st.binary(max_size=60).map(lambda rest: b"[" + rest))
def test_pieces_of_any_bytes_lose_nothing_or_are_an_error(text: bytes) -> None:
    try:
        pieces = list(Pieces(io.BytesIO(text), "x.json", None))
    except StageError:
        return
    inside = text.strip()[1:-1]
    assert b"".join(b",".join(pieces).split()) == b"".join(inside.split())


@given(rows=st.lists(VALUES, max_size=5), version=VALUES.filter(lambda value: not isinstance(value, list)))
def test_object_with_one_list_gives_its_elements(rows: list[object], version: object) -> None:
    content = json.dumps({"version": version, 'da"ta': rows, "last": 1}).encode()
    conversation = bool(rows) and isinstance(rows[0], dict) and {"role", "content"} <= rows[0].keys()
    assert [json.loads(row) for row in read_rows_of_object(content, "x.json")] == rows or conversation
