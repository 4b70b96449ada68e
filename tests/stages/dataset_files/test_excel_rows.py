"""Workbooks, written by hand: an .xlsx is a zip archive of XML."""

import io
import logging
import zipfile
from pathlib import Path

import orjson
import pytest

from stages.core.errors import StageError
from stages.dataset_files.excel_rows import describe_sheets
from stages.dataset_files.reader import read_rows

TYPES = (
    '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default Extension="rels" '
    'ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Default Extension="xml" '
    'ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/></Types>'
)
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"
MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
STYLES = f'<styleSheet xmlns="{MAIN}"><cellXfs count="2"><xf numFmtId="0"/><xf numFmtId="14"/></cellXfs></styleSheet>'
"""The second style is a date's."""


def string(text: str) -> str:
    return f't="inlineStr"><is><t xml:space="preserve">{text}</t></is>'


def number(value: str, style: int = 0) -> str:
    return f's="{style}"><v>{value}</v>'


def boolean(value: int) -> str:
    return f't="b"><v>{value}</v>'


def letters(column: int) -> str:
    return (chr(64 + column // 26) if column >= 26 else "") + chr(65 + column % 26)


def sheet(*rows: tuple[int, list[str | None]]) -> str:
    """Rows by their number, each a list of cells; None: no cell."""
    written = [
        f'<row r="{place}">'
        + "".join(f'<c r="{letters(column)}{place}" {cell}</c>' for column, cell in enumerate(cells) if cell)
        + "</row>"
        for place, cells in rows
    ]
    return f'<worksheet xmlns="{MAIN}"><sheetData>{"".join(written)}</sheetData></worksheet>'


def workbook(**sheets: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", TYPES)
        main = f'<Relationship Id="r" Type="{OFFICE}/officeDocument" Target="xl/workbook.xml"/>'
        archive.writestr("_rels/.rels", f'<Relationships xmlns="{PACKAGE}">{main}</Relationships>')
        listed = ""
        for n, name in enumerate(sheets, 1):
            state = 'state="hidden" ' if name.startswith("hidden") else ""
            listed += f'<sheet name="{name}" {state}sheetId="{n}" r:id="s{n}"/>'
        archive.writestr(
            "xl/workbook.xml", f'<workbook xmlns="{MAIN}" xmlns:r="{OFFICE}"><sheets>{listed}</sheets></workbook>'
        )
        related = "".join(
            f'<Relationship Id="s{n}" Type="{OFFICE}/worksheet" Target="worksheets/s{n}.xml"/>'
            for n in range(1, len(sheets) + 1)
        )
        styles = f'<Relationship Id="y" Type="{OFFICE}/styles" Target="styles.xml"/>'
        archive.writestr(
            "xl/_rels/workbook.xml.rels", f'<Relationships xmlns="{PACKAGE}">{related}{styles}</Relationships>'
        )
        archive.writestr("xl/styles.xml", STYLES)
        for n, text in enumerate(sheets.values(), 1):
            archive.writestr(f"xl/worksheets/s{n}.xml", text)
    return content.getvalue()


HEADER = [string("prompt"), string("answer")]


def rows_of(tmp_path: Path, content: bytes) -> list[tuple[int, object]]:
    path = tmp_path / "mine.xlsx"
    path.write_bytes(content)
    return [(place, orjson.loads(row)) for place, row in read_rows(path, "mine.xlsx")]


def test_cells_are_text_and_rows_have_the_place_that_the_sheet_shows(tmp_path: Path) -> None:
    found = rows_of(
        tmp_path,
        workbook(
            one=sheet(
                (2, HEADER),
                (3, [string(" 2+2?\n"), number("4")]),
                (5, [string("half?"), number("0.30000000000000004")]),
                (6, [string("when?"), number("45658", style=1)]),
                (7, [string("is it?"), boolean(1)]),
                (8, [string("large?"), number("123456789012345")]),
                (9, [string("empty?"), None]),
            )
        ),
    )
    answers = ["4", "0.3", "2025-01-01", "TRUE", "123456789012345", ""]
    assert [row["answer"] for _, row in found] == answers  # type: ignore[call-overload]
    assert [place for place, _ in found] == [3, 5, 6, 7, 8, 9]
    assert found[0][1] == {"prompt": " 2+2?\n", "answer": "4"}


def test_first_sheet_that_holds_anything_is_read_and_the_others_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "retune")
    other = sheet((1, HEADER), (2, [string("no"), string("no")]))
    content = workbook(
        hidden_notes=other, blank=sheet(), talks=sheet((1, HEADER), (2, [string("q"), string("a")])), more=other
    )
    assert rows_of(tmp_path, content) == [(2, {"prompt": "q", "answer": "a"})]
    assert "mine.xlsx has 4 sheets; 'talks' is read, the others are not" in caplog.text
    said = "'talks' is read, 3 not: 'blank', 'more', 'hidden_notes'"
    assert describe_sheets(tmp_path / "mine.xlsx", "mine.xlsx") == said
    (tmp_path / "one.xlsx").write_bytes(workbook(talks=other))
    assert describe_sheets(tmp_path / "one.xlsx", "one.xlsx") is None


def test_column_without_a_name_is_left_out_where_it_is_empty_and_an_error_where_it_is_not(tmp_path: Path) -> None:
    blank = [string("q"), string("a"), string("")]
    assert rows_of(tmp_path, workbook(one=sheet((1, [*HEADER, string("")]), (2, blank)))) == [
        (2, {"prompt": "q", "answer": "a"})
    ]
    with pytest.raises(StageError, match=r"mine\.xlsx, row 2: a cell stands in a column"):
        rows_of(tmp_path, workbook(one=sheet((1, HEADER), (2, [string("q"), string("a"), string("secret")]))))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"secret", "no Excel workbook"),
        (b"", "no Excel workbook"),
        (b"PK\x03\x04secret", "cut off, damaged or locked"),
        (workbook(one=sheet((1, HEADER), (2, HEADER)))[:-400], "cut off, damaged or locked"),
        (workbook(one=sheet()), "no sheet of it holds anything"),
        (workbook(one=sheet((1, [string("a"), string("a")]))), "same name"),
        (workbook(one="<worksheet><secret"), "cannot be read as .xlsx"),
        (workbook(one=sheet((1, [string("x" * (40 * 2**20))]))), "unpacks to 40 MiB"),
        (workbook(one=sheet((1, HEADER), (1048576, [None] * 60 + [string("x")]))), "row 1048576 or column 61"),
    ],
)
def test_file_that_is_no_good_workbook_is_refused_without_its_text(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(StageError, match=says) as caught:
        rows_of(tmp_path, content)
    assert "secret" not in str(caught.value)
    assert "mine.xlsx" in str(caught.value)
