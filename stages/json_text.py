"""The rows of a .json file as the pieces of its text, byte for byte: what is strange in one of them (a key twice, NaN, a nesting of a
thousand levels, a bad byte) is a matter of that row, and `standardize` judges it. Memory is bounded by a row; only an object is read whole.
"""

import io
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import BinaryIO

import orjson

from stages.errors import StageError

CHUNK = 2**20
LONGEST_RECORD = 64 * 2**20
"""Bytes of one row, line or field: more is no conversation but a file of another kind."""

STRING = rb'"(?:[^"\\]++|\\.)*+"'
TOP = re.compile(rb'(?:[^"\[\]{},]++|' + STRING + rb")*+([\[\]{},])", re.DOTALL)
"""Up to the next mark between or around rows."""
NESTED = re.compile(rb'(?:[^"\[\]{}]++|' + STRING + rb")*+([\[\]{}])", re.DOTALL)
"""Up to the next bracket: within a row, commas part no rows."""
MEMBER = re.compile(rb"\s*(" + STRING + rb")\s*:\s*(.*)", re.DOTALL)
ENDS = {b"[": b"]", b"{": b"}"}


class Pieces:
    """The elements of the list, or the members of the object, that a stream holds: their text, with nothing around it."""

    def __init__(self, stream: BinaryIO, name: str, longest: int | None, begun: bytes = b"") -> None:
        """`longest`: bytes of one piece; None: no bound. `begun`: what was read of the stream already."""
        self.stream, self.name, self.longest, self.buffer = stream, name, longest, begun
        self.line = 1  # at which the buffer begins
        self.count = 0

    def __iter__(self) -> Iterator[bytes]:
        """The pieces, in order. Raises StageError, which names the line and the row, where the text ends early or goes on."""
        start = at = self.beginning()
        end, depth, comma = ENDS[self.buffer[start - 1 : start]], 1, False
        while True:
            found = (TOP if depth == 1 else NESTED).match(self.buffer, at)
            if found is None:
                self.more(start)
                start, at = 0, at - start
                continue
            at, mark = found.end(), found[1]
            if mark in b"[{":
                depth += 1
            elif mark != b",":
                depth -= 1
            if depth == 0 or (depth == 1 and mark == b","):
                piece = self.buffer[start : at - 1].strip()
                self.check_length(len(piece), start)
                if piece:
                    self.count += 1
                    yield piece
                elif mark == b"," or comma:
                    raise self.wrong("nothing stands between two commas", at)
                start, comma = at, mark == b","
            if depth == 0:
                break
        if mark != end:
            raise self.wrong("a bracket is closed by one of another kind", at)
        self.ending(at)

    def beginning(self) -> int:
        """Where the first piece begins."""
        while not self.buffer.lstrip():
            self.more(0)
        return len(self.buffer) - len(self.buffer.lstrip()) + 1

    def more(self, start: int) -> None:
        """Drop what lies before `start`, and read on."""
        self.line += self.buffer.count(b"\n", 0, start)
        self.buffer = self.buffer[start:]
        self.check_length(len(self.buffer), 0)
        new = self.stream.read(max(CHUNK, len(self.buffer)))
        if not new:
            raise self.wrong("the text ends before its list does", len(self.buffer))
        self.buffer += new

    def check_length(self, length: int, at: int) -> None:
        """Raise StageError for a piece of more than the longest length."""
        if self.longest is not None and length > self.longest:
            near = self.buffer[at : at + 100]
            at += len(near) - len(near.lstrip())
            raise self.wrong(f"the next is longer than {self.longest >> 20} MiB, so this is no list of rows", at)

    def ending(self, at: int) -> None:
        """Raise StageError if something stands behind the last bracket."""
        while rest := self.buffer[at:] or self.stream.read(CHUNK):
            if rest.strip():
                raise self.wrong("something stands behind its end", at)
            self.buffer, at = b"", 0

    def wrong(self, what: str, at: int) -> StageError:
        """The error at a place in the buffer."""
        line = self.line + self.buffer.count(b"\n", 0, at)
        return StageError(f"{self.name} is not JSON: line {line}, after {self.count} rows: {what}")


def rows_of_object(content: bytes, name: str) -> Iterator[bytes]:
    """The rows of an object with one list of rows in it, or the object itself if it is a conversation.

    Raises StageError if it is neither.
    """
    members = [MEMBER.fullmatch(piece) for piece in Pieces(io.BytesIO(content), name, None)]
    lists = [member[2] for member in members if member and member[2].startswith(b"[")]
    if any(is_message(next(iter(Pieces(io.BytesIO(value), name, None)), b"")) for value in lists):
        yield content.strip()
    elif len(lists) == 1:
        yield from Pieces(io.BytesIO(lists[0]), name, LONGEST_RECORD)
    else:
        raise StageError(f"{name}: must be a list of rows, or one object with one list of rows in it")


def is_message(piece: bytes) -> bool:
    """Whether this is a message of a conversation, so that the list it is in is a conversation and no list of rows."""
    value = loads(piece)
    return isinstance(value, dict) and any(keys <= value.keys() for keys in ({"from", "value"}, {"role", "content"}))


def loads(content: bytes) -> object:
    """A JSON value, or None; what the strict and fast reader refuses (NaN, lone surrogates, huge numbers), the standard library's reads."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            return None


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
