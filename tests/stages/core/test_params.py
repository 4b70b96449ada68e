from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Discriminator, Tag

from stages.core.errors import StageError
from stages.core.params import Params, read_params, section_params, section_problems


class Inner(Params):
    r: int


class Some(Params):
    rate: float
    mode: Literal["a", "b"]
    limit: int | None
    inner: Inner


class Item(Params):
    name: str
    either: Annotated[
        Annotated[Inner, Tag("Inner")] | Annotated[Some, Tag("Some")],
        Discriminator(lambda value: "Some" if "rate" in value else "Inner"),
    ]


class Several(Params):
    items: list[Item]


RIGHT = {"rate": 1, "mode": "a", "limit": None, "inner": {"r": 3}}


def test_section_right_values_give_the_model() -> None:
    assert section_params(Some, "some", {"some": RIGHT}).inner.r == 3


def test_section_problems_names_every_error_with_its_place() -> None:
    found = section_problems(Some, "some", {"rate": "1", "mode": "c", "limit": 1.5, "inner": {"R": 3}})
    assert [line.split(":")[0] for line in found] == [
        "some.rate",
        "some.mode",
        "some.limit",
        "some.inner.r",
        "some.inner.R",
    ]


def test_section_problems_missing_key_has_no_default() -> None:
    assert section_problems(Some, "some", {key: RIGHT[key] for key in ("rate", "mode", "inner")}) == [
        "some.limit: missing (there are no defaults)"
    ]


def test_section_problems_unknown_key_suggests_the_near_one() -> None:
    assert section_problems(Some, "some", {**RIGHT, "limits": 3}) == ["some.limits: unknown key; did you mean `limit`?"]


def test_section_problems_in_lists_and_tagged_unions_speak_of_the_keys_of_that_place() -> None:
    values = {
        "items": [
            {"name": "a", "either": {"r": 1}},
            {"nam": "a", "either": {"rate": 1, "mode": "a", "limt": 1, "inner": {"q": 1}}},
        ]
    }
    assert section_problems(Several, "some", values) == [
        "some.items.1.name: missing (there are no defaults)",
        "some.items.1.either.limit: missing (there are no defaults)",
        "some.items.1.either.inner.r: missing (there are no defaults)",
        "some.items.1.either.inner.q: unknown key; known: r",
        "some.items.1.either.limt: unknown key; did you mean `limit`?",
        "some.items.1.nam: unknown key; did you mean `name`?",
    ]


def test_section_bool_is_no_int() -> None:
    assert section_problems(Inner, "x", {"r": True}) == ["x.r: should be a valid integer (found True)"]


def test_section_params_missing_section_says_so() -> None:
    with pytest.raises(StageError, match="section `some` is missing"):
        section_params(Some, "some", {})


def test_read_params_exponent_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("train: {rate: 2e-4}\n")
    assert read_params(tmp_path / "params.yaml") == {"train": {"rate": 2e-4}}


@pytest.mark.parametrize("text", ["a: [1\n", "- 1\n", "", "a: 1\na: 2\n"])
def test_read_params_no_mapping_is_an_error_for_people(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(StageError, match=r"params\.yaml"):
        read_params(tmp_path / "params.yaml")


def test_read_params_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="retune use demo"):
        read_params(tmp_path / "params.yaml")
