"""Pieces that the hostile files are made of."""

import gzip
import io
import json
import zipfile
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.hostile.pipeline import MARKER


def dialogue(question: object, answer: object = f"{MARKER} answer") -> dict[str, Any]:
    """A conversation of one question and one answer."""
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def good(number: int) -> dict[str, Any]:
    """A conversation that every stage keeps."""
    return dialogue(f"{MARKER} question {number}?", f"{MARKER} answer {number}.")


def line(value: object) -> bytes:
    """A value as one line of JSON."""
    return json.dumps(value).encode() + b"\n"


def good_rows(count: int = 6, first: int = 0) -> list[dict[str, Any]]:
    """Conversations that are kept."""
    return [good(number) for number in range(first, first + count)]


def good_lines(count: int = 6, first: int = 0) -> bytes:
    """The same as lines."""
    return b"".join(map(line, good_rows(count, first)))


def good_csv(count: int = 6) -> bytes:
    """Questions and answers in columns."""
    lines = [f"{MARKER} question {number}?,{MARKER} answer {number}." for number in range(count)]
    return "\r\n".join(["prompt,completion", *lines, ""]).encode()


def parquet(table: pa.Table | None = None, **options: Any) -> bytes:
    """A Parquet file; without a table, of good rows."""
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(good_rows()) if table is None else table, out, **options)
    return out.getvalue()


def arrow(*, stream: bool, table: pa.Table | None = None) -> bytes:
    """Arrow IPC, as a stream or as a file."""
    table = pa.Table.from_pylist(good_rows()) if table is None else table
    out = pa.BufferOutputStream()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return out.getvalue().to_pybytes()


def zstd(content: bytes) -> bytes:
    """One zstd frame."""
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as stream:
        stream.write(content)
    return out.getvalue().to_pybytes()


def zipped(content: bytes) -> bytes:
    """A zip archive with one file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.jsonl", content)
    return out.getvalue()


def gzip_bomb(filling: bytes, size: int) -> bytes:
    """`size` bytes of a repeated filling in a few kilobytes for each mebibyte: one member, many times."""
    member = gzip.compress(filling * (2**24 // len(filling)), mtime=0)
    return member * (size // 2**24)


def zstd_bomb(filling: bytes, size: int) -> bytes:
    """The same for zstd: one frame, many times."""
    frame = zstd(filling * (2**24 // len(filling)))
    return frame * (size // 2**24)
