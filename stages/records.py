"""The rows of a dataset file as JSON bytes, one after the other, each with its place: by the file's ending, packed or not.

Memory is bounded by a row or a batch. Errors name the file and the place, never what stands there.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from stages.errors import StageError
from stages.json_text import LONGEST_RECORD, Pieces, dumps, loads, rows_of_object
from stages.kinds import COLUMNAR, KNOWN, ending_of, other_kind
from stages.packed import DamagedError, opened, wrong_ending

BOM = b"\xef\xbb\xbf"
FIRST_READ = 2**16
LARGEST_OBJECT = 512 * 2**20
"""Bytes of a .json file that is one object with the rows in it, since it is read whole."""
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
"""What may stand between the fields of a .csv: Excel writes semicolons where a comma is in numbers."""


def records(path: Path, name: str) -> Iterator[tuple[int, bytes]]:
    """(place, row) of a file's rows. A row is JSON; of .jsonl and .json exactly what stands there, even if it is no JSON.

    The place is 1-based: the line where a row begins in .jsonl, .csv and .tsv, else the row's number. Blank lines are no rows.

    Args:
        path: the file.
        name: what errors call it, and whose ending says what it is.

    Raises:
        StageError: the file is missing, cannot be read, or holds something else than its ending says.
    """
    ending = ending_of(name)
    if not ending:
        raise StageError(f"{name}: a dataset file must end in {KNOWN}")
    if not path.is_file():
        raise StageError(f"{name} is not there (or is no file); `retune use --data FILE` brings one to data/custom")
    if ending in COLUMNAR:
        from stages.columnar import columnar_rows

        return columnar_rows(path, name, ending)
    return text_rows(path, name, ending)


def text_rows(path: Path, name: str, ending: str) -> Iterator[tuple[int, bytes]]:
    """The rows of a text file."""
    place = 0
    try:
        check_beginning(path, name, ending)
        with opened(path, name, ending) as stream:
            if ending.startswith(".jsonl"):
                rows = lines(stream, name)
            elif ending.startswith(".json"):
                rows = json_rows(stream, path, name, ending)
            else:
                rows = separated_rows(stream, name, ending[:4])
            for place, row in rows:
                yield place, row
    except DamagedError as error:
        raise StageError(f"{name}: cut off or damaged after the row at {place}; nothing was kept") from error
    except OSError as error:
        raise StageError(f"{name} cannot be read ({error.strerror})") from error


def check_beginning(path: Path, name: str, ending: str) -> None:
    """Raise StageError if what is in a text file begins like a file of another kind."""
    with opened(path, name, ending) as stream:
        if kind := other_kind(stream.read(32)):
            raise wrong_ending(name, kind)


def lines(stream: "io.BufferedReader[Any]", name: str) -> Iterator[tuple[int, bytes]]:
    """The lines of JSON lines without their line end (LF or CRLF) and without the file's byte order mark."""
    number = 0
    while line := stream.readline(LONGEST_RECORD + 1):
        number += 1
        if len(line) > LONGEST_RECORD:
            raise StageError(
                f"{name}, line {number}: longer than {LONGEST_RECORD >> 20} MiB, so this is no JSON-lines file"
            )
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        if number == 1:
            line = line.removeprefix(BOM)
            if line.strip() in (b"[", b"{"):
                raise StageError(f"{name}: one JSON value over many lines, not one a line: let its name end in .json")
            if line.lstrip()[:1] == b"[" and not stream.peek(1) and is_list_of_objects(line):
                raise StageError(f"{name}: one list on one line, not one row a line: let its name end in .json")
        if line and not line.isspace():
            yield number, line


def is_list_of_objects(line: bytes) -> bool:
    """Whether a line is a JSON list that holds objects alone: rows."""
    value = loads(line)
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def json_rows(stream: "io.BufferedReader[Any]", path: Path, name: str, ending: str) -> Iterator[tuple[int, bytes]]:
    """The rows of a .json file: a list of rows, one object with one list of rows in it, one row, or (common on the hub) JSON lines."""
    begun = stream.read(FIRST_READ).removeprefix(BOM)
    while begun.isspace():
        begun = stream.read(FIRST_READ)
    first = begun.lstrip()[:1]
    if first == b"[":
        yield from enumerate(Pieces(stream, name, LONGEST_RECORD, begun), start=1)
    elif first == b"{" and is_json_lines(path, name, ending):
        with opened(path, name, ending) as again:
            yield from lines(again, name)
    elif first == b"{":
        content = begun + stream.read(LARGEST_OBJECT)
        if len(content) > LARGEST_OBJECT:
            raise StageError(
                f"{name}: one object of more than {LARGEST_OBJECT >> 20} MiB; save the list of rows in it alone, or as .jsonl"
            )
        yield from enumerate(rows_of_object(content, name), start=1)
    elif first:
        raise StageError(f"{name}: must be a list of rows, or one object with one list of rows in it")


def is_json_lines(path: Path, name: str, ending: str) -> bool:
    """Whether the first line of a file with text in it is an object of its own, and not the only one."""
    with opened(path, name, ending) as stream:
        line = stream.readline(LONGEST_RECORD).removeprefix(BOM)
        while line.isspace():
            line = stream.readline(LONGEST_RECORD)
        rest = stream.read(FIRST_READ)
        while rest.isspace():
            rest = stream.read(FIRST_READ)
    return bool(rest) and isinstance(loads(line), dict)


def separated_rows(binary: BinaryIO, name: str, ending: str) -> Iterator[tuple[int, bytes]]:
    """The rows of a .csv or .tsv file as objects of strings; one with more or fewer fields than the header as a list of its fields.

    Bytes that are not UTF-8 become lone surrogates, which `standardize` sets aside row by row.
    """
    csv.field_size_limit(LONGEST_RECORD)
    with as_text(binary) as file:
        lines = Lines(file)
        separator = separator_of(lines.first, name, ending)
        reader = csv.reader(lines, delimiter=separator, strict=True)
        begins = 1
        try:
            header = next(reader, [])
            check_header(header, name, ending)
            lines.of_row.clear()
            begins = reader.line_num + 1
            for fields in reader:
                if fields:
                    row = dict(zip(header, fields, strict=True)) if len(fields) == len(header) else fields
                    yield begins, dumps(row)
                lines.of_row.clear()
                begins = reader.line_num + 1
        except csv.Error as error:
            opened_at = begins + quote_in(lines.of_row, separator)
            raise StageError(csv_problem(name, opened_at, reader.line_num, str(error))) from error


def as_text(binary: BinaryIO) -> io.TextIOWrapper:
    """The text of a .csv or .tsv."""
    return io.TextIOWrapper(binary, encoding="utf-8-sig", errors="surrogateescape", newline="")


class Lines:
    """The lines of a text, one by one; those of the row that is being read are kept, to tell where it went wrong."""

    def __init__(self, file: io.TextIOWrapper) -> None:
        """Reads the first line."""
        self.file = file
        self.of_row: list[str] = []
        self.first = self.coming = self.read()

    def read(self) -> str:
        """The next line; one without an end would be read whole, so no more than a field may have."""
        return self.file.readline(LONGEST_RECORD + 1)

    def __iter__(self) -> "Lines":
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
    """What separates the fields: of a .csv whichever stands in its first line outside of quotes. Raises StageError if several do."""
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


def separator_seen(path: Path, name: str) -> str | None:
    """What separates the fields of a .csv, in words; None for a file of another kind. Raises StageError."""
    ending = ending_of(name)
    if not ending.startswith(".csv"):
        return None
    with opened(path, name, ending) as stream, as_text(cast("BinaryIO", stream)) as file:
        return SEPARATORS[separator_of(Lines(file).first, name, ".csv")]


def check_header(header: list[str], name: str, ending: str) -> None:
    """Raise StageError for a first line that names no columns."""
    first = "".join(header)
    if first.lstrip()[:1] in ("{", "["):
        raise wrong_ending(name, "JSON")
    if len(header) == 1 and any(mark in first for mark in ",;|"):
        separators = "tabs" if ending == ".tsv" else "commas, semicolons or tabs"
        raise StageError(f"{name}: its fields are not separated by {separators}; save it as a UTF-8 {ending}")
    if len(set(header)) < len(header):
        raise StageError(f"{name}: two columns of its first line have the same name")
    if "\0" in first or any("\udc80" <= character <= "\udcff" for character in first):
        raise StageError(f"{name}: its first line is not UTF-8; save it as a UTF-8 {ending}")


def quote_in(lines: list[str], separator: str) -> int:
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
