"""Files of every kind with a few bytes of them changed, by chance and by seed: rows, or one error in words; and lists of any JSON."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.core.errors import StageError
from stages.dataset_files.reader import read_rows
from tests.hostile.made import arrow, good_csv, good_lines, good_rows, parquet, zstd
from tests.hostile.pipeline import MARKER

TABLE = pa.Table.from_pylist(good_rows(200))
KINDS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "parquet": ("x.parquet", lambda: parquet(TABLE, compression="none")),
    "parquet_packed": ("x.parquet", lambda: parquet(TABLE, compression="snappy")),
    "arrow_stream": ("x.arrow", lambda: arrow(stream=True, table=TABLE)),
    "arrow_file": ("x.arrow", lambda: arrow(stream=False, table=TABLE)),
    "gzip": ("x.jsonl.gz", lambda: gzip.compress(good_lines(200))),
    "zstd": ("x.jsonl.zst", lambda: zstd(good_lines(200))),
    "json": ("x.json", lambda: json.dumps(good_rows(5), indent=1).encode()),
    "jsonl": ("x.jsonl", lambda: good_lines(5)),
    "csv": ("x.csv", lambda: good_csv(20)),
}
SIZES = [b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\0\0\0\x80", b"\0\0\0\0"]
"""Lengths and offsets that lie."""


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The content with up to 20 places changed, half of them near its end, where Parquet and Arrow have their directory."""
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        near_end = len(changed) - 1 - int(rng.expovariate(1 / 200))
        at = rng.choice([rng.randrange(len(changed)), max(near_end, 0)])
        length = rng.choice([1, 4, rng.randrange(1, 50)])
        if rng.random() < 0.1:
            del changed[at + 1 :]
        else:
            changed[at : at + length] = rng.choice([rng.randbytes(length), *SIZES, b""]) or b" "
    return bytes(changed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.timeout(60)
def test_any_damage_to_a_file_is_an_error_in_words_or_leaves_rows(tmp_path: Path, kind: str) -> None:
    name, make = KINDS[kind]
    content = make()
    path = tmp_path / name
    messages = []
    for seed in range(150):
        path.write_bytes(damaged(content, random.Random(seed)))
        try:
            for _ in read_rows(path, name):
                pass
        except StageError as error:
            messages.append(str(error))
    assert all(name in message and MARKER not in message for message in messages)
    assert messages or name == "x.jsonl"  # whose lines are judged one by one, later


SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
ANY = st.recursive(SCALAR, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


FORMS = st.sampled_from(
    [{"indent": 3}, {"indent": 0, "ensure_ascii": False}, {"separators": (",", ":")}, {"separators": (" , ", " : ")}]
)


@given(st.lists(ANY, min_size=1), FORMS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_list_of_any_json_is_taken_apart_into_its_rows(
    tmp_path: Path, rows: list[object], form: dict[str, Any]
) -> None:
    text = json.dumps(rows, **form).encode("utf-8", "surrogatepass")
    (tmp_path / "x.json").write_bytes(text)
    found = list(read_rows(tmp_path / "x.json", "x.json"))
    assert [place for place, _ in found] == list(range(1, len(rows) + 1))
    assert [json.loads(record.decode("utf-8", "surrogatepass")) for _, record in found] == rows
