"""The rows of a dataset file as JSON bytes, one after the other, each with its place: by the file's ending, compressed or not.

Memory is bounded by a row or a batch. Errors name the file and the place, never what stands there.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from stages.core.errors import StageError
from stages.dataset_files.compression import DamagedError, open_decompressed, wrong_ending
from stages.dataset_files.csv_rows import CsvLines, in_words, open_text, read_separated_rows, separator_of
from stages.dataset_files.file_kinds import BY_LINE, COLUMNAR, EXCEL, KNOWN, ending_of, other_kind
from stages.dataset_files.json_rows import LONGEST_RECORD, Pieces, loads, read_rows_of_object

if TYPE_CHECKING:
    import io

BOM = b"\xef\xbb\xbf"
FIRST_READ = 2**16
LARGEST_OBJECT = 512 * 2**20
"""Bytes of a .json file that is one object with the rows in it, since it is read whole."""


def read_rows(path: Path, name: str) -> Iterator[tuple[int, bytes]]:
    """(place, row) of a file's rows. A row is JSON; of .jsonl and .json exactly what stands there, even if it is no JSON.

    The place is 1-based: the line where a row begins in .jsonl, .csv and .tsv, the row of a sheet, else the row's number. Blank lines are no rows.

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
        from stages.dataset_files.columnar import read_columnar_rows

        return read_columnar_rows(path, name, ending)
    if ending in EXCEL:
        from stages.dataset_files.excel_rows import read_excel_rows

        return read_excel_rows(path, name)
    return read_text_rows(path, name, ending)


def read_text_rows(path: Path, name: str, ending: str) -> Iterator[tuple[int, bytes]]:
    """The rows of a text file."""
    place = 0
    try:
        check_beginning(path, name, ending)
        with open_decompressed(path, name, ending) as stream:
            if ending.startswith(".jsonl"):
                rows = read_lines(stream, name)
            elif ending.startswith(".json"):
                rows = read_json_rows(stream, path, name, ending)
            else:
                rows = read_separated_rows(stream, name, ending[:4])
            for place, row in rows:
                yield place, row
    except DamagedError as error:
        after = f"after the row in line {place}" if ending.startswith(BY_LINE) else f"after row {place}"
        where = after if place else "before the end of its first row"
        raise StageError(f"{name}: cut off or damaged {where}; nothing was kept") from error
    except OSError as error:
        raise StageError(f"{name} cannot be read ({error.strerror})") from error


def check_beginning(path: Path, name: str, ending: str) -> None:
    """Raise StageError if what is in a text file begins like a file of another kind."""
    with open_decompressed(path, name, ending) as stream:
        if kind := other_kind(stream.read(32)):
            raise wrong_ending(name, kind)


def read_lines(stream: "io.BufferedReader[Any]", name: str) -> Iterator[tuple[int, bytes]]:
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


def read_json_rows(stream: "io.BufferedReader[Any]", path: Path, name: str, ending: str) -> Iterator[tuple[int, bytes]]:
    """The rows of a .json file: a list of rows, one object with one list of rows in it, one row, or (common on the hub) JSON lines."""
    begun = stream.read(FIRST_READ).removeprefix(BOM)
    while begun.isspace():
        begun = stream.read(FIRST_READ)
    first = begun.lstrip()[:1]
    if first == b"[":
        yield from enumerate(Pieces(stream, name, LONGEST_RECORD, begun), start=1)
    elif first == b"{" and is_json_lines(path, name, ending):
        with open_decompressed(path, name, ending) as again:
            yield from read_lines(again, name)
    elif first == b"{":
        content = begun + stream.read(LARGEST_OBJECT)
        if len(content) > LARGEST_OBJECT:
            raise StageError(
                f"{name}: one object of more than {LARGEST_OBJECT >> 20} MiB; save the list of rows in it alone, or as .jsonl"
            )
        yield from enumerate(read_rows_of_object(content, name), start=1)
    elif first:
        raise StageError(f"{name}: must be a list of rows, or one object with one list of rows in it")


def is_json_lines(path: Path, name: str, ending: str) -> bool:
    """Whether the first line of a file with text in it is an object of its own, and not the only one."""
    with open_decompressed(path, name, ending) as stream:
        line = stream.readline(LONGEST_RECORD).removeprefix(BOM)
        while line.isspace():
            line = stream.readline(LONGEST_RECORD)
        rest = stream.read(FIRST_READ)
        while rest.isspace():
            rest = stream.read(FIRST_READ)
    return bool(rest) and isinstance(loads(line), dict)


def find_separator(path: Path, name: str) -> str | None:
    """What separates the fields of a .csv, in words; None for a file of another kind. Raises StageError."""
    ending = ending_of(name)
    if not ending.startswith(".csv"):
        return None
    with open_decompressed(path, name, ending) as stream, open_text(cast("BinaryIO", stream)) as file:
        return in_words(separator_of(CsvLines(file).first, name, ".csv"))
