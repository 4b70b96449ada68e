"""The rows of a dataset file as JSON bytes, one after the other: .jsonl, .json, .parquet, .csv, by the file's ending.

Memory is bounded by a batch, except for .json, which is one value and is read whole. Errors name the file and the place,
never what stands there.
"""

import csv
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from stages.errors import StageError

ENDINGS = (".jsonl", ".json", ".parquet", ".csv")

LONGEST_RECORD = 64 * 2**20
"""Bytes of one line or field: more is no conversation but a file of another kind."""

PARQUET_ROWS = 1_000
BOM = b"\xef\xbb\xbf"
OTHER_KINDS = {
    b"PAR1": "Parquet",
    b"ARROW1": "an Arrow file",
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "a zip archive (or .xlsx)",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"%PDF": "a PDF",
    b"GGUF": "a GGUF model",
    b"SQLite format 3": "an SQLite database",
    b"version https://git-lfs": "a Git LFS pointer (run `git lfs pull` where it comes from)",
}
"""How files of other kinds begin."""


def records(path: Path, name: str) -> Iterator[bytes]:
    """The rows of a file, each as JSON; a .jsonl line exactly as it stands there, even if it is no JSON. Blank lines are no rows.

    Args:
        path: the file.
        name: what errors call it, and whose ending says what it is.

    Raises:
        StageError: the file is missing, cannot be read, or holds something else than its ending says.
    """
    ending = Path(name).suffix.lower()
    readers = {".jsonl": lines, ".json": json_rows, ".parquet": parquet_rows, ".csv": csv_rows}
    if ending not in readers:
        raise StageError(f"{name}: a dataset file must end in {', '.join(ENDINGS)}")
    if not path.is_file():
        raise StageError(f"{name} is not there (or is no file); `retune use --data FILE` brings one to data/custom")
    if ending != ".parquet":
        check_beginning(path, name)
    return readers[ending](path, name)


def check_beginning(path: Path, name: str) -> None:
    """Raise StageError if a text file begins like a file of another kind."""
    with path.open("rb") as file:
        beginning = file.read(32)
    for magic, kind in OTHER_KINDS.items():
        if beginning.startswith(magic):
            raise StageError(
                f"{name} does not hold what its ending says: it is {kind}. Convert it, or give it its right ending."
            )


def lines(path: Path, name: str) -> Iterator[bytes]:
    """The lines of a .jsonl file without their line end (LF or CRLF) and without the file's byte order mark."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST_RECORD + 1):
            number += 1
            if len(line) > LONGEST_RECORD:
                raise StageError(
                    f"{name}, line {number}: longer than {LONGEST_RECORD >> 20} MiB, so this is no JSON-lines file"
                )
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            if number == 1:
                line = line.removeprefix(BOM)
                if line.strip() in (b"[", b"{"):
                    raise StageError(
                        f"{name}: one JSON value over many lines, not one a line: let its name end in .json"
                    )
            if line and not line.isspace():
                yield line


def json_rows(path: Path, name: str) -> Iterator[bytes]:
    """The rows of a .json file: a list of rows, one object with one list of rows in it, one row, or (common on the hub) JSON lines."""
    content = path.read_bytes().removeprefix(BOM)
    try:
        value = loads(content)
    except (ValueError, RecursionError) as error:
        if is_json_object(content.lstrip().split(b"\n", 1)[0]):
            yield from lines(path, name)
            return
        raise StageError(f"{name} is not JSON: {place(error)}") from error
    for number, row in enumerate(rows_of(value, name)):
        try:
            yield dumps(row)
        except RecursionError as error:
            raise StageError(f"{name}, row {number}: nested too deep") from error


def rows_of(value: object, name: str) -> list[object]:
    """The list of rows in a JSON value. Raises StageError if there is none, or more than one."""
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        lists = {key: inner for key, inner in value.items() if isinstance(inner, list)}
        if any(is_message(inner[0]) for inner in lists.values() if inner):
            return [value]
        if len(lists) == 1:
            return next(iter(lists.values()))
    raise StageError(f"{name}: must be a list of rows, or one object with one list of rows in it")


def is_message(value: object) -> bool:
    """Whether this is a message of a conversation, so that the list it is in is a conversation and no list of rows."""
    return isinstance(value, dict) and any(keys <= value.keys() for keys in ({"from", "value"}, {"role", "content"}))


def parquet_rows(path: Path, name: str) -> Iterator[bytes]:
    """The rows of a Parquet file, columns in the file's order."""
    done = 0
    try:
        with pq.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            if len(set(columns)) < len(columns):
                raise StageError(f"{name}: two columns have the same name")
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                for row in batch.to_pylist():
                    yield dumps(row)
                    done += 1
    except (pa.ArrowException, OSError, ValueError, OverflowError, RecursionError) as error:
        # Arrow's own text may quote values
        raise StageError(
            f"{name} cannot be read as Parquet after row {done} ({type(error).__name__}): cut off, damaged, or of another kind"
        ) from error


def csv_rows(path: Path, name: str) -> Iterator[bytes]:
    """The lines of a .csv file as objects of strings; one with more or fewer fields than the header as a list of its fields.

    Bytes that are not UTF-8 become lone surrogates, which `standardize` sets aside row by row.
    """
    csv.field_size_limit(LONGEST_RECORD)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            check_header(header, name)
            for fields in reader:
                if fields:
                    yield dumps(dict(zip(header, fields, strict=True)) if len(fields) == len(header) else fields)
        except csv.Error as error:
            raise StageError(f"{name}, line {reader.line_num}: not a .csv ({csv_problem(error)})") from error


def check_header(header: list[str], name: str) -> None:
    """Raise StageError for a first line that names no columns."""
    if len(header) == 1 and any(mark in header[0] for mark in ";\t|"):
        raise StageError(f"{name}: its fields are not separated by commas; save it as comma-separated UTF-8")
    if len(set(header)) < len(header):
        raise StageError(f"{name}: two columns of its first line have the same name")
    if any("\udc80" <= character <= "\udcff" for character in "".join(header)):
        raise StageError(f"{name}: its first line is not UTF-8; save it as comma-separated UTF-8")


def csv_problem(error: csv.Error) -> str:
    """What is wrong with a .csv, in words that quote nothing of it."""
    return (
        "a quoted field has no end"
        if "unexpected end" in str(error)
        else "a quote or a field in it is not closed, or too long"
    )


def loads(content: bytes) -> object:
    """A JSON value; what the strict and fast reader refuses (NaN, lone surrogates, huge numbers), the standard library's reads."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return json.loads(content.decode("utf-8"))


def is_json_object(line: bytes) -> bool:
    """Whether a line is a JSON object of its own."""
    try:
        return isinstance(loads(line), dict)
    except (ValueError, RecursionError):
        return False


def place(error: Exception) -> str:
    """Where reading JSON failed."""
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno}, column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    return "nested too deep" if isinstance(error, RecursionError) else type(error).__name__


def dumps(value: object) -> bytes:
    """A value as compact JSON in UTF-8, keys in their order; lone surrogates and huge numbers the way that only ASCII JSON can write them."""
    try:
        return orjson.dumps(value, default=plain)
    except TypeError:
        return json.dumps(value, default=plain, separators=(",", ":")).encode()


def plain(value: object) -> str | None:
    """What JSON has no word for: bytes as the text they are (null for an image and the like), numbers and times as text."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return None
    return format(value, "f") if isinstance(value, Decimal) else str(value)
