"""Which rows of several sources are taken: the pure choice, and fetch_data with real files."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stages.fetching.mixture import choose_smallest, hashes_of, shares
from tests.stages.dataset_files.support.data_files import fetch, noted, params


def lines(name: str, count: int) -> list[bytes]:
    return [b'{"%s": %d}' % (name.encode(), number) for number in range(count)]


def jsonl(rows: list[bytes]) -> bytes:
    return b"\n".join(rows)


def weighted(**weights: float | None) -> list[dict[str, object]]:
    return [{"source": f"data/custom/{name}.jsonl", "weight": weight} for name, weight in weights.items()]


def taken(rows: list[dict[str, Any]]) -> list[int]:
    counts = Counter(row["source"] for row in rows)
    return [counts[number] for number in sorted(counts)]


@pytest.mark.parametrize(
    ("rows", "caps", "weights", "expected"),
    [
        ([10, 20], [None, None], [None, None], [10, 20]),
        ([10, 20], [None, 5], [None, None], [10, 5]),
        ([10, 20], [None, None], [1, 1], [10, 10]),
        ([70, 1000], [None, None], [0.7, 0.3], [70, 30]),
        ([1000, 3], [None, None], [0.9, 0.1], [27, 3]),
        ([1000, 1000], [None, 30], [3, 1], [90, 30]),
        ([10, 10**6], [None, None], [1, 1e-05], [10, 1]),
        ([5, 1000], [None, None], [1, 0.7], [5, 4]),  # 3.5 by the decimal weight, less by the binary one
        ([7], [None], [3], [7]),
        ([], [], [], []),
    ],
)
def test_shares_are_in_proportion_as_far_as_the_scarcest_reaches(
    rows: list[int], caps: list[int | None], weights: list[float | None], expected: list[int]
) -> None:
    assert shares(rows, caps, weights) == expected


@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(1e-3, 1e3)), min_size=1, max_size=5))
def test_shares_take_no_more_than_there_is_and_all_of_one(sources: list[tuple[int, float]]) -> None:
    rows, weights = [rows for rows, _ in sources], [weight for _, weight in sources]
    found = shares(rows, [None] * len(rows), weights)
    assert all(1 <= count <= most for count, most in zip(found, rows, strict=True))
    assert any(count == most for count, most in zip(found, rows, strict=True))


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 50))
def test_smallest_takes_exactly_the_count_and_the_first_of_equals(values: list[int], count: int) -> None:
    mask = choose_smallest(np.array(values, np.uint64), count)
    wanted = sorted(range(len(values)), key=lambda number: (values[number], number))[:count]
    assert np.flatnonzero(mask).tolist() == sorted(wanted)


def test_sample_is_of_all_parts_of_a_source() -> None:
    mask = choose_smallest(hashes_of(lines("a", 10_000)), 1000)
    assert all(60 < part.sum() < 140 for part in np.split(mask, 10))


def test_mixture_has_the_proportion_and_each_row_its_source(tmp_path: Path) -> None:
    files = {f"{name}.jsonl": jsonl(lines(name, count)) for name, count in (("a", 50), ("b", 4000), ("c", 4000))}
    rows = fetch(tmp_path, files, params(*weighted(a=0.1, b=0.2, c=0.7)))
    assert taken(rows) == [50, 100, 350]
    for row in rows:
        name = "abc"[row["source"]]
        assert row["file"] == f"{name}.jsonl"
        assert json.loads(row["record"]) == {name: row["line"] - 1}
    places = [(row["source"], row["line"]) for row in rows]
    assert places == sorted(places)
    assert [(source["rows_seen"], source["rows"], source["weight"]) for source in noted(tmp_path)["sources"]] == [
        (50, 50, 0.1), (4000, 100, 0.2), (4000, 350, 0.7),
    ]  # fmt: skip


def test_cap_holds_across_the_shards_of_a_folder_and_kinds_of_file(tmp_path: Path) -> None:
    files = {f"f/{part}.jsonl": jsonl(lines(str(part), 300)) for part in range(4)}
    files["whole.json"] = b"[" + b",".join(lines("w", 500)) + b"]"
    whole = {"source": "data/custom/whole.json", "max_rows": 7}
    rows = fetch(tmp_path, files, params({"source": "data/custom/f", "max_rows": 100}, whole, "data/custom/f/0.jsonl"))
    assert taken(rows) == [100, 7, 300]
    assert len({row["file"] for row in rows if row["source"] == 0}) == 4


def test_sample_stays_when_rows_are_shuffled_added_or_the_cap_grows(tmp_path: Path) -> None:
    content = lines("a", 2000)

    def sample(rows: list[bytes], cap: int) -> set[bytes]:
        found = fetch(tmp_path, {"a.jsonl": jsonl(rows)}, params("data/custom/a.jsonl", max_rows=cap))
        assert len(found) == cap
        return {row["record"] for row in found}

    first = sample(content, 500)
    assert sample(random.Random(0).sample(content, 2000), 500) == first
    assert first < sample(content, 600)
    assert len(first & sample([*content, *lines("b", 200)], 500)) > 430


def test_equal_rows_are_counted_to_the_row(tmp_path: Path) -> None:
    rows = fetch(tmp_path, {"a.jsonl": b"{}\n" * 500}, params("data/custom/a.jsonl", max_rows=123))
    assert [row["line"] for row in rows] == list(range(1, 124))


def test_limit_comes_before_the_choice(tmp_path: Path) -> None:
    files = {"a.jsonl": jsonl(lines("a", 1000)), "b.jsonl": jsonl(lines("b", 1000))}
    rows = fetch(tmp_path, files, params(*weighted(a=3, b=1), limit=30))
    assert taken(rows) == [30, 10]
    assert max(row["line"] for row in rows) <= 30
    assert [source["rows_seen"] for source in noted(tmp_path)["sources"]] == [30, 30]


def test_columns_of_each_source_are_noted(tmp_path: Path) -> None:
    columns = {"prompt": "q", "answer": "a", "system": None}
    fetch(tmp_path, {"a.csv": b"q,a\n1,2\n"}, params("data/custom/a.csv", columns=columns))
    assert noted(tmp_path)["sources"][0]["columns"] == columns


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "at least 1"),
        (weighted(a=1, b=None), "all sources have one"),
        (weighted(a=None) * 2, "in the list twice"),
        ([{"source": "data/custom/f"}, {"source": "data/custom/f/"}], "in the list twice"),
    ],
)
def test_sources_that_contradict_each_other_are_refused(sources: list[dict[str, object]], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        params(*sources) if sources else type(params())(sources=[], limit=None)
