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

from stages.core.errors import StageError

CHUNK = 2**20
LONGEST_RECORD = 64 * 2**20
"""Bytes of one row, line or field: more is no conversation but a file of another kind."""

STRING = rb'"(?:[^"\\]++|\\.)*+"'
TOP = re.compile(rb'(?:[^"\[\]{},]++|' + STRING + rb")*+([\[\]{},])", re.DOTALL)
"""Up to the next mark between or around rows."""
NESTED = re.compile(rb'(?:[^"\[\]{}]++|' + STRING + rb")*+([\[\]{}])", re.DOTALL)
"""Up to the next bracket: within a row, commas part no rows."""
MEMBER = re.compile(rb"\s*(" + STRING + rb")\s*:\s*(.*)", re.DOTALL)
BLANK = re.compile(rb"\s*")
ENDS = {"list": b"]", "object": b"}"}


class Pieces:
    """The elements of the list, or the members of the object, that a stream holds: their text, with nothing around it."""

    def __init__(self, stream: BinaryIO, name: str, longest: int | None, begun: bytes = b"", line: int = 1) -> None:
        """`longest`: bytes of one piece; None: no bound. `begun`: what was read of the stream already. `line`: where the text begins."""
        self.stream, self.name, self.longest, self.buffer = stream, name, longest, begun
        self.line = line  # at which the buffer begins
        self.start = 0  # where in the buffer the last piece begins
        self.count = 0
        self.kind, self.noun = "list", "row"

    def __iter__(self) -> Iterator[bytes]:
        """The pieces, in order. Raises StageError, which names the line and the row, where the text ends early or goes on."""
        start = at = self.find_beginning()
        depth, comma, closed = 1, False, False
        while True:
            found = (TOP if depth == 1 else NESTED).match(self.buffer, at)
            if found is None:
                self.read_more(start)
                start, at = 0, at - start
                continue
            at, mark = found.end(), found[1]
            if mark in b"[{":
                if closed and depth == 1:
                    raise self.no_comma(at - 1)
                depth += 1
            elif mark != b",":
                depth -= 1
                closed = True
            if depth == 0 or (depth == 1 and mark == b","):
                piece = self.buffer[start : at - 1].strip()
                self.check_length(len(piece), start)
                if piece:
                    self.count += 1
                    self.start = start
                    yield piece
                elif mark == b"," or comma:
                    raise self.nothing(start, at, mark, comma=comma)
                start, comma, closed = at, mark == b",", False
            if depth == 0:
                break
        self.check_ending(at, mark)

    def find_beginning(self) -> int:
        """Where the first piece begins."""
        while not self.buffer.lstrip():
            self.read_more(0)
        start = len(self.buffer) - len(self.buffer.lstrip()) + 1
        if self.buffer[start - 1 : start] == b"{":
            self.kind, self.noun = "object", "key"
        return start

    def read_more(self, start: int) -> None:
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

    def check_ending(self, at: int, mark: bytes) -> None:
        """Raise StageError if the last bracket, `mark`, is not that of the first, or if something stands behind it."""
        if mark != ENDS[self.kind]:
            raise self.wrong("a bracket is closed by one of another kind", at)
        while self.buffer:
            rest = self.buffer[at:]
            if behind := rest.lstrip():
                at += len(rest) - len(behind)
                if self.kind == "object" and behind[:1] in b"{,":
                    how = "put [ ] around all of them and a comma between each two, or write one on a line"
                    raise self.not_json(f"line {self.line_of(at)}: another object stands behind the first; {how}")
                raise self.wrong("something stands behind its end", at)
            self.line += self.buffer.count(b"\n")
            self.buffer, at = self.stream.read(CHUNK), 0

    def nothing(self, start: int, at: int, mark: bytes, *, comma: bool) -> StageError:
        """The error for a comma with nothing before it, or behind it; `comma`: whether one stands before `start`."""
        if mark != b",":
            return self.wrong(f"a comma stands before the end of the {self.kind}", start)
        return self.wrong("nothing stands between two commas" if comma else "nothing stands before the first comma", at)

    def no_comma(self, at: int) -> StageError:
        """The error for a bracket that opens where a comma should stand."""
        first = self.count + 1
        return self.not_json(
            f"line {self.line_of(at)}, between {self.noun} {first} and {self.noun} {first + 1}: the comma is missing"
        )

    def wrong(self, what: str, at: int) -> StageError:
        """The error at a place in the buffer."""
        rows = f"{self.count} {self.noun}{'' if self.count == 1 else 's'}"
        return self.not_json(f"line {self.line_of(at)}, after {rows}: {what}")

    def not_json(self, why: str) -> StageError:
        """The error for this text."""
        return StageError(f"{self.name} is not JSON: {why}")

    def line_of(self, at: int) -> int:
        """The line of a place in the buffer."""
        return self.line + self.buffer.count(b"\n", 0, at)

    def line_in_piece(self, offset: int) -> int:
        """The line of a place in the last piece."""
        begins = BLANK.match(self.buffer, self.start)
        return self.line_of((begins.end() if begins else self.start) + offset)


def read_rows_of_object(content: bytes, name: str) -> Iterator[bytes]:
    """The rows of an object with one list of rows in it, or the object itself if it is a conversation.

    Raises StageError if it is neither.
    """
    pieces = Pieces(io.BytesIO(content), name, None)
    lists = []
    for piece in pieces:
        member = MEMBER.fullmatch(piece)
        if member and member[2].startswith(b"["):
            lists.append((member[2], pieces.line_in_piece(member.start(2))))
    if any(is_message(next(iter(Pieces(io.BytesIO(value), name, None, line=line)), b"")) for value, line in lists):
        yield content.strip()
    elif len(lists) == 1:
        [(value, line)] = lists
        yield from Pieces(io.BytesIO(value), name, LONGEST_RECORD, line=line)
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
        return orjson.dumps(value, default=to_plain)
    except TypeError:
        return json.dumps(value, default=to_plain, separators=(",", ":")).encode()


def to_plain(value: object) -> str | None:
    """What JSON has no word for: bytes as the text they are (null for an image and the like), numbers and times as text."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return None
    return format(value, "f") if isinstance(value, Decimal) else str(value)
