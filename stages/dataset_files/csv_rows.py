"""The rows of a .csv or .tsv file as objects of strings, whatever separates its fields. Errors name the file and the line, never what stands there."""

import csv
import io
import re
from collections.abc import Iterator
from typing import BinaryIO

from stages.core.errors import StageError
from stages.dataset_files.compression import wrong_ending
from stages.dataset_files.file_kinds import OLDER_EXCEL
from stages.dataset_files.json_rows import LONGEST_RECORD, dumps

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
"""What may stand between the fields of a .csv: Excel writes semicolons where a comma is in numbers."""
DECLARED = re.compile(r'("?)sep=([^\w"\r\n\0\udc80-\udcff])\1[\r\n]*', re.IGNORECASE)
"""The line that Excel writes, and reads, before the header, to say what separates the fields."""


def read_separated_rows(binary: BinaryIO, name: str, ending: str) -> Iterator[tuple[int, bytes]]:
    """(line, row) of a .csv or .tsv file's rows, as objects of strings; one with more or fewer fields than the header as a list of its fields.

    Bytes that are not UTF-8 become lone surrogates, which `standardize` sets aside row by row.
    """
    csv.field_size_limit(LONGEST_RECORD)
    with open_text(binary) as file:
        lines = CsvLines(file)
        declared = DECLARED.fullmatch(lines.first)
        separator = separator_of(lines.first, name, ending)
        reader = csv.reader(lines, delimiter=separator, strict=True)
        begins = 1
        try:
            if declared:
                next(reader)
                lines.of_row.clear()
                begins = 2
            header = next(reader, [])
            check_header(header, name, ending, separator if declared else None)
            lines.of_row.clear()
            begins = reader.line_num + 1
            for fields in reader:
                if fields:
                    row = dict(zip(header, fields, strict=True)) if len(fields) == len(header) else fields
                    yield begins, dumps(row)
                lines.of_row.clear()
                begins = reader.line_num + 1
        except csv.Error as error:
            opened_at = begins + find_open_quote(lines.of_row, separator)
            raise StageError(csv_problem(name, opened_at, reader.line_num, str(error))) from error


def open_text(binary: BinaryIO) -> io.TextIOWrapper:
    """The text of a .csv or .tsv."""
    return io.TextIOWrapper(binary, encoding="utf-8-sig", errors="surrogateescape", newline="")


class CsvLines:
    """The lines of a text, one by one; those of the row that is being read are kept, to tell where it went wrong."""

    def __init__(self, file: io.TextIOWrapper) -> None:
        """Reads the first line."""
        self.file = file
        self.of_row: list[str] = []
        self.first = self.coming = self.read()

    def read(self) -> str:
        """The next line; one without an end would be read whole, so no more than a field may have."""
        return self.file.readline(LONGEST_RECORD + 1)

    def __iter__(self) -> "CsvLines":
        """Itself."""
        return self

    def __next__(self) -> str:
        """The next line."""
        line = self.coming or self.read()
        if not line:
            raise StopIteration
        self.coming = ""
        self.of_row.append(line)
        return line


def separator_of(header: str, name: str, ending: str) -> str:
    """What separates the fields: what a line `sep=;` says, else of a .csv whichever stands in its first line outside of quotes.

    Raises StageError if several do.
    """
    if declared := DECLARED.fullmatch(header):
        return declared[2]
    if ending == ".tsv":
        return "\t"
    outside = "".join(header.split('"')[::2])
    found = [separator for separator in SEPARATORS if separator in outside]
    if len(found) > 1:
        kinds = " and ".join(SEPARATORS[separator] for separator in found)
        raise StageError(
            f"{name}: its first line has {kinds}, so it is not clear what separates the fields; put names that hold one in quotes"
        )
    return found[0] if found else ","


def check_header(header: list[str], name: str, ending: str, declared: str | None = None) -> None:
    """Raise StageError for a header that names no columns; `declared`: what a line before it says that separates the fields."""
    first = "".join(header)
    if first.lstrip()[:1] in ("{", "["):
        raise wrong_ending(name, "JSON")
    if len(header) == 1 and any(mark in first for mark in ",;|"):
        separators = "tabs" if ending == ".tsv" else "commas, semicolons or tabs"
        if declared:
            separators = f"{in_words(declared)}, as its first line says"
        raise StageError(f"{name}: its fields are not separated by {separators}; save it as a UTF-8 {ending}")
    if len(set(header)) < len(header):
        raise StageError(f"{name}: two columns of its header have the same name")
    if "\0" in first or any("\udc80" <= character <= "\udcff" for character in first):
        raise StageError(f"{name}: its header is not UTF-8; the file {OLDER_EXCEL}")


def in_words(separator: str) -> str:
    """What separates fields, for a sentence."""
    return SEPARATORS.get(separator) or repr(separator)


def find_open_quote(lines: list[str], separator: str) -> int:
    """In which of a row's lines, from 0, the last field in quotes begins; 0 if none does."""
    found, inside, begins_field = 0, False, True
    for number, line in enumerate(lines):
        for character in line:
            if character == '"' and (inside or begins_field):
                # a quote that is written twice closes and opens again, behind a quote
                inside = not inside
                found = number if inside and begins_field else found
                begins_field = False
            elif not inside:
                begins_field = character in (separator, "\r", "\n")
            else:
                begins_field = False
    return found


def csv_problem(name: str, opened_at: int, line: int, error: str) -> str:
    """What is wrong with a .csv, in words that quote nothing of it."""
    if "unexpected end" in error:
        return f"{name}, line {opened_at}: a quote opens there and is not closed"
    if "expected after" in error:
        where = f"{name}, line {line}: text stands behind a closing quote (a quote inside of quotes is written twice)"
        return where if opened_at == line else f"{where}; a quote opens in line {opened_at}: is it not closed there?"
    return f"{name}, line {opened_at}: a quote or a field in it is not closed, or too long"
