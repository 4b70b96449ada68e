"""The rows of an .xlsx file's first sheet as objects of strings, its first row the header. Errors name the file and the row, never what stands there."""

import datetime as dt
import logging
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from python_calamine import CalamineError, CalamineSheet, CalamineWorkbook, SheetTypeEnum, SheetVisibleEnum

from stages.core.errors import StageError
from stages.dataset_files.compression import LARGEST_FREE, LARGEST_RATIO, wrong_ending
from stages.dataset_files.file_kinds import other_kind
from stages.dataset_files.json_rows import dumps

log = logging.getLogger("retune")

LARGEST = 2 * 2**30
"""Bytes that a workbook may have, unpacked: it is read whole."""
LARGEST_AREA = 50_000_000
"""Cells of a sheet, empty ones too: each takes 24 bytes."""
CHUNK = 2**20
PLACE = re.compile(rb'\br="([A-Z]{1,3})(\d{1,7})"')
"""Where a cell stands."""
SHEETS, SHOWN = 5, 40
"""Sheets that are named, and characters of a name."""
EXACT = 10**15
"""Below it Excel keeps every digit of a whole number."""


def read_excel_rows(path: Path, name: str) -> Iterator[tuple[int, bytes]]:
    """(row in the sheet, row) of the first sheet that holds anything; blank rows are no rows, every cell is a string, as in a .csv.

    Raises StageError for what is no workbook, is locked, or has no header.
    """
    with open_workbook(path, name) as workbook:
        sheet, others = choose_sheet(workbook, name)
        if others:
            log.warning("%s has %d sheets; %r is read, the others are not", name, len(others) + 1, sheet.name[:SHOWN])
        yield from read_sheet(sheet, name)


@contextmanager
def open_workbook(path: Path, name: str) -> Iterator[CalamineWorkbook]:
    """A workbook that fits into memory. Raises StageError for what is none, and for what is found damaged while it is open."""
    check_archive(path, name)
    try:
        with CalamineWorkbook.from_path(path) as workbook:
            yield workbook
    except (CalamineError, OSError, ValueError) as error:
        raise StageError(
            f"{name} cannot be read as .xlsx: damaged, locked by a password, or of another kind ({type(error).__name__})"
        ) from error


def check_archive(path: Path, name: str) -> None:
    """Raise StageError for a file that is no zip archive, or one that would fill memory."""
    with path.open("rb") as file:
        beginning = file.read(32)
    if not beginning.startswith(b"PK\x03\x04"):
        raise wrong_ending(name, other_kind(beginning) or "no Excel workbook (.xlsx)")
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > LARGEST or (unpacked > LARGEST_FREE and unpacked > LARGEST_RATIO * path.stat().st_size):
                raise StageError(
                    f"{name} unpacks to {unpacked >> 20} MiB, more than is read of an .xlsx: save it as .csv"
                )
            for member in archive.namelist():
                if member.endswith(".xml"):
                    with archive.open(member) as stream:
                        check_area(stream, name)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as error:
        raise StageError(f"{name} cannot be read as .xlsx: cut off, damaged or locked by a password") from error


def check_area(stream: IO[bytes], name: str) -> None:
    """Raise StageError for a sheet with a cell so far out that all cells up to it, empty ones too, would not fit into memory."""
    columns, rows, left = 0, 0, b""
    while chunk := stream.read(CHUNK):
        for column, row in set(PLACE.findall(left + chunk)):
            number = 0
            for letter in column:
                number = number * 26 + letter - ord("A") + 1
            columns, rows = max(columns, number), max(rows, int(row))
        left = chunk[-32:]
    if columns * rows > LARGEST_AREA:
        raise StageError(
            f"{name}: a cell of it stands in row {rows} or column {columns}: delete what lies so far out, or save it as .csv"
        )


def choose_sheet(workbook: CalamineWorkbook, name: str) -> tuple[CalamineSheet, list[str]]:
    """(the first sheet that holds anything, one that is seen before one that is hidden; the names of the others). Raises StageError."""
    sheets = [sheet for sheet in workbook.sheets_metadata if sheet.typ == SheetTypeEnum.WorkSheet]
    sheets.sort(key=lambda sheet: sheet.visible != SheetVisibleEnum.Visible)
    for metadata in sheets:
        sheet = workbook.get_sheet_by_name(metadata.name)
        if sheet.height:
            return sheet, [other.name for other in sheets if other.name != metadata.name]
    raise StageError(f"{name}: no sheet of it holds anything")


def describe_sheets(path: Path, name: str) -> str | None:
    """Of a workbook with several sheets, which one is read, in words; None for any other. Raises StageError."""
    with open_workbook(path, name) as workbook:
        sheet, others = choose_sheet(workbook, name)
        left = ", ".join(repr(other[:SHOWN]) for other in others[:SHEETS]) + (" ..." if others[SHEETS:] else "")
        return f"{sheet.name[:SHOWN]!r} is read, {len(others)} not: {left}" if others else None


def read_sheet(sheet: CalamineSheet, name: str) -> Iterator[tuple[int, bytes]]:
    """(row in the sheet, row) of a sheet whose first row that is not blank is the header."""
    rows = enumerate(sheet.iter_rows(), start=1)
    header: list[str] = []
    for number, cells in rows:
        header = [write_cell(cell).strip() for cell in cells]
        if any(header):
            check_header(header, name, number)
            break
    for number, cells in rows:
        fields = [write_cell(cell) for cell in cells]
        if any(fields):
            if any(field and not column for field, column in zip(fields, header, strict=True)):
                raise StageError(f"{name}, row {number}: a cell stands in a column that the header does not name")
            yield number, dumps({column: field for column, field in zip(header, fields, strict=True) if column})


def check_header(header: Sequence[str], name: str, number: int) -> None:
    """Raise StageError for a header with a name twice."""
    named = [column for column in header if column]
    if len(set(named)) < len(named):
        raise StageError(f"{name}, row {number}: two columns of its header have the same name")


def write_cell(value: object) -> str:
    """A cell as text: numbers as Excel shows them at most (15 digits), dates as ISO 8601, TRUE and FALSE; an empty one is an empty text."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int | float):
        return str(int(value)) if value == int(value) and abs(value) < EXACT else format(value, ".15g")
    if isinstance(value, dt.datetime):
        return value.isoformat(sep=" ")
    return value.isoformat() if isinstance(value, dt.date | dt.time) else str(value)
