import datetime as dt
from typing import Any

import pytest

from stages.core.value_differences import ABSENT, FieldDifference, compare_values, show_value

SAME = [
    (1, 1.0),
    (2e-4, 0.0002),
    (float("nan"), float("nan")),
    ([1, {"a": [None]}], [1.0, {"a": [None]}]),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
]
OTHER = [(1, True), (0, False), (None, 0), (None, False), ("1", 1), ("", None), ([], {}), ([1], [1, 2]), ([[]], [{}])]


@pytest.mark.parametrize(("first", "second"), SAME)
def test_compare_values_that_mean_the_same_param_finds_nothing(first: Any, second: Any) -> None:
    assert list(compare_values("x", first, second)) == []


@pytest.mark.parametrize(("first", "second"), OTHER)
def test_compare_values_of_other_kinds_are_others(first: Any, second: Any) -> None:
    assert list(compare_values("x", first, second))
    assert list(compare_values("x", [[first]], [[second]]))


def test_compare_values_names_each_field_by_its_path() -> None:
    first = {"rate": 2e-4, "lora": {"r": 16, "alpha": 16}, "sources": [{"split": "a"}, {"split": "b"}], "old": 1}
    second = {"rate": 1e-4, "lora": {"r": 8, "alpha": 16}, "sources": [{"split": "a"}, {"split": "c"}], "new": None}
    assert list(compare_values("train", first, second)) == [
        FieldDifference("train.rate", 2e-4, 1e-4),
        FieldDifference("train.lora.r", 16, 8),
        FieldDifference("train.sources.1.split", "b", "c"),
        FieldDifference("train.old", 1, ABSENT),
        FieldDifference("train.new", ABSENT, None),
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "null"),
        (True, "true"),
        (1e-4, "0.0001"),
        ("a\x1b[31m\u2028\u202eb", '"a\\u001b[31m\\u2028\\u202eb"'),
        ("Grüße", '"Grüße"'),
        (ABSENT, "nothing"),
        (dt.date(2026, 1, 2), '"2026-01-02"'),
        ("x" * 200, '"' + "x" * 75 + " ..."),
    ],
)
def test_show_value_is_one_line_as_params_yaml_would_have_it(value: Any, shown: str) -> None:
    assert show_value(value) == shown
