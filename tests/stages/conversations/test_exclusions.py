"""The exclusion list: what is understood, and what a line that is not is told, field by field and without its text."""

from pathlib import Path

import pytest

from stages.conversations.exclusions import Exclusions, read_exclusions
from stages.core.errors import StageError

HEADER = "row_id_or_hash,reason,requested_by,date"
ROW, CONTENT = "a" * 32, "B" * 64


def read(tmp_path: Path, *lines: str, encoding: str = "utf-8") -> Exclusions:
    path = tmp_path / "exclusions.csv"
    path.write_bytes("".join(f"{line}\r\n" for line in lines).encode(encoding))
    return read_exclusions(path)


def refused(tmp_path: Path, *lines: str, encoding: str = "utf-8") -> str:
    with pytest.raises(StageError) as caught:
        read(tmp_path, *lines, encoding=encoding)
    assert "secret" not in str(caught.value)
    assert str(caught.value).startswith("exclusions.csv")
    return str(caught.value)


@pytest.mark.parametrize("separator", [",", ";"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "bom"])
@pytest.mark.parametrize("quote", ["", '"'], ids=["", "quoted"])
def test_list_is_read_with_commas_and_with_the_semicolons_of_excel(
    tmp_path: Path, separator: str, mark: str, quote: str
) -> None:
    def line(*fields: str) -> str:
        return separator.join(f"{quote}{field}{quote}" for field in fields)

    found = read(
        tmp_path,
        mark + line(*HEADER.split(",")),
        line(ROW, "asked", "somebody", "2026-01-31"),
        "",
        separator.join([CONTENT, '"asked, twice; ""again""\r\nin two lines"', "somebody", "2026-01-31"]),
        line("c" * 32, "later", "", "2026-02-01"),
    )
    assert found.by_row_id == {ROW: "asked", "c" * 32: "later"}
    assert found.by_content == {CONTENT.lower(): 'asked, twice; "again"\r\nin two lines'}
    assert found.lines == {ROW: 2, CONTENT.lower(): 5, "c" * 32: 6}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"{ROW},secret,w,05.01.2026", ["date must be a day of the calendar as YYYY-MM-DD, such as 2026-01-31"]),
        (f"{ROW},secret,w,2026-02-30", ["date must be a day"]),
        (f"{ROW},secret,w,", ["date must be a day"]),
        (f"{ROW}, ,secret,2026-01-31", ["reason is empty"]),
        (
            "abc123,secret,w,2026-01-31",
            ["row_id_or_hash must be a row id (32 hex characters)", "here are 6 characters"],
        ),
        (f"{'g' * 32},secret,w,2026-01-31", ["row_id_or_hash must", "here are 32 characters, not all of them hex"]),
        ("secret,,w,1.2.2026", ["row_id_or_hash must", "not all of them hex; reason is empty; date must"]),
        (f"{ROW},secret,w", ["3 fields instead of 4 (row_id_or_hash, reason, requested_by, date)"]),
        (f"{ROW};secret;w;2026-01-31", ["1 field instead of 4", "separated by commas, as in the first line"]),
        (f"{ROW},secret, and more,w,2026-01-31", ["5 fields instead of 4", "stands in quotes"]),
    ],
)
def test_line_that_is_wrong_says_which_field_and_what_it_should_be(tmp_path: Path, line: str, said: list[str]) -> None:
    message = refused(tmp_path, HEADER, f"{ROW},r,w,2026-01-31", "", line)
    assert message.startswith("exclusions.csv, line 4: ")
    for words in said:
        assert words in message
    for field in ("row_id_or_hash must", "reason is empty", "date must"):
        assert (field in message) == any(field in words for words in said), "no field is blamed that is right"


@pytest.mark.parametrize("header", ["", "row_id,reason", HEADER.replace(",", "\t"), "secret", HEADER + ",note"])
def test_first_line_that_is_wrong_says_what_it_must_be(tmp_path: Path, header: str) -> None:
    message = refused(tmp_path, header, f"{ROW},secret,w,2026-01-31")
    assert f"the first line must be {HEADER}: these four names in this order, with commas (or semicolons" in message


def test_list_in_windows_1252_says_how_to_save_it(tmp_path: Path) -> None:
    message = refused(tmp_path, HEADER, f"{ROW},secret \u00fc,w,2026-01-31", encoding="cp1252")
    assert message.endswith("is not UTF-8; it looks like Windows-1252 (Excel's older CSV): save it as CSV UTF-8")


@pytest.mark.parametrize("line", ['"secret', f'{ROW},"secret" more,w,2026-01-31'])
def test_quote_that_is_not_closed_is_an_error_with_its_place(tmp_path: Path, line: str) -> None:
    assert ", line 3 or below: a quote" in refused(tmp_path, HEADER, f"{ROW},r,w,2026-01-31", line)
