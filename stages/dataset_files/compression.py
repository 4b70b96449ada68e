"""A text file as a stream of its bytes, decompressed as its ending says (.gz, .zst), guarded against bombs and cut-off files."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import pyarrow as pa

from stages.core.errors import StageError
from stages.dataset_files.file_kinds import COMPRESSED, other_kind

MAGIC = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd"}
LARGEST_FREE = 16 * 2**20
"""Bytes that any compressed file may decompress to."""
LARGEST_RATIO = 200
"""Past those: bytes of text for each compressed byte. Chat text has 3 to 20; a file with more is made to fill memory and disk."""
BUFFER = 2**20


class DamagedError(Exception):
    """A compressed file that is cut off or broken; whoever reads rows knows at which."""


class Stream(Protocol):
    """What both libraries give."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the buffer with decompressed bytes; how many, 0 at the end."""

    def close(self) -> None:
        """Let go of it."""


class DecompressedFile(io.RawIOBase):
    """The decompressed bytes of a file, counted."""

    def __init__(self, stream: Stream, compressed: BinaryIO, name: str) -> None:
        """`stream` decompresses what it reads from `compressed`."""
        self.stream, self.compressed, self.name, self.count = stream, compressed, name, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer. Raises DamagedError, and StageError for a bomb."""
        try:
            read = self.stream.readinto(buffer)
        except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
            raise DamagedError from error
        self.count += read
        if self.count > LARGEST_FREE and self.count > LARGEST_RATIO * self.compressed.tell():
            raise StageError(
                f"{self.name}: unpacks to more than {LARGEST_RATIO} times its size (a decompression bomb?); nothing was kept. "
                "If you trust it, unpack it yourself."
            )
        return read

    def close(self) -> None:
        """Close both files."""
        if not self.closed:
            self.stream.close()
            self.compressed.close()
        super().close()


@contextmanager
def open_decompressed(path: Path, name: str, ending: str) -> Iterator["io.BufferedReader[Any]"]:
    """The bytes of a text file, buffered. Raises StageError if it is not compressed as its ending says."""
    compression = next((compressed for compressed in COMPRESSED if ending.endswith(compressed)), None)
    with path.open("rb", buffering=BUFFER) as file:
        if compression is None:
            yield cast("io.BufferedReader[Any]", file)
            return
        beginning = file.read(32)
        file.seek(0)
        if beginning and not beginning.startswith(MAGIC[compression]):
            raise wrong_ending(name, other_kind(beginning) or f"not packed as {compression}")
        if compression == ".gz":
            stream = cast("Stream", gzip.GzipFile(fileobj=file))
        else:
            stream = cast("Stream", pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd"))
        with io.BufferedReader(DecompressedFile(stream, file, name), BUFFER) as reader:
            yield reader


def wrong_ending(name: str, kind: str) -> StageError:
    """The error for a file that holds something else than its ending says."""
    return StageError(
        f"{name} does not hold what its ending says: it is {kind}. Convert it, or give it its right ending."
    )
