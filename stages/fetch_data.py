"""The rows of all sources as they came, as one Parquet file of JSON records, each with its origin, and a note of where they are from.

Reads  data/demo/dialogues.jsonl, data/custom/, or datasets of the hub at pinned revisions
Writes data/raw (rows.parquet, source.json)

    python -m stages.fetch_data --demo data/demo/dialogues.jsonl --custom data/custom --raw data/raw
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, compress, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from stages.arrow.tables import write_parquet
from stages.contracts import raw as contract
from stages.core.errors import StageError
from stages.core.files import sha256_file, write_json
from stages.core.params import Params
from stages.core.runner import Input, Output, run
from stages.dataset_files.column_names import Columns
from stages.dataset_files.file_kinds import ending_of
from stages.dataset_files.reader import read_rows
from stages.fetching.hub import Revision, check_revision
from stages.fetching.mixture import Mask, choose_smallest, hashes_of, shares
from stages.fetching.observed_sources import note_sources
from stages.fetching.source_files import CUSTOM, DEMO, find_source_files, is_local
from stages.show.progress import Advance, progress
from stages.workers.system_memory import take_memory_from_system
from stages.workers.without_pandas import leave_pandas_out

log = logging.getLogger("retune")

BATCH_ROWS, BATCH_BYTES = 1_000, 16 * 2**20
OLD_KEYS = ("source", "revision", "config", "split")


class DataSource(Params):
    """One dataset."""

    source: str
    """`demo`, a file or folder in data/custom, or a dataset of the hub, OWNER/NAME. data/custom/FILE: .jsonl, .json, .csv, .tsv, each also
    .gz or .zst; .parquet, .arrow, .feather. data/custom/FOLDER: such files, all of one kind."""
    revision: Revision | None
    """The commit of a hub dataset, 40 hex characters; null for a local source."""
    config: str | None
    """The config (subset) of a hub dataset; null: its only or default one. Also of a folder whose README.md names some."""
    split: str | None
    """The split of a hub dataset, such as train; null for a file. Also of a folder whose files are named as the hub's are."""
    columns: Columns | None
    """Which columns hold what; null: found out by looking. Where that cannot tell: {prompt, answer, system} or {messages}."""
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    """Its part in the mixture, relative to the other sources' weights. Each gives rows in this proportion, as many as the scarcest allows.
    All sources have one, or none has (null): then all rows are taken."""
    max_rows: Annotated[int, Field(ge=1)] | None
    """At most so many of its rows, chosen by hash of the row; null: all. So the choice is stable when rows come or go."""

    @model_validator(mode="after")
    def check_source(self) -> Self:
        """The keys of a hub dataset stand with a hub dataset, and only there."""
        local = is_local(self.source)
        if not local and ending_of(self.source):
            raise ValueError(
                f"source looks like a file: a local one is {CUSTOM}FILE (`retune use --data FILE` brings it there)"
            )
        check_revision(self.source, self.revision, local=local)
        is_file = self.source == DEMO or bool(local and ending_of(self.source))
        if is_file and (self.config is not None or self.split is not None):
            raise ValueError(f"config and split must be null for {self.source}, which is one file")
        if not local and self.split is None:
            raise ValueError(f"split must name a split of {self.source}, such as train")
        return self


class FetchDataParams(Params):
    """Where the rows come from."""

    sources: Annotated[list[DataSource], Field(min_length=1)]
    """One or more datasets, whose rows come one after the other. Each row knows its source."""
    limit: Annotated[int, Field(ge=1)] | None
    """Rows of each source, from its beginning, before any are chosen; null: all. A dry run."""

    @model_validator(mode="before")
    @classmethod
    def explain_old_keys(cls, values: object) -> object:
        """Say what became of the keys that stood here when there was one source."""
        if isinstance(values, Mapping) and any(key in values for key in OLD_KEYS):
            raise ValueError(
                "there may be several sources now, so source, revision, config and split stand in a list: sources: "
                "[{source: ..., revision: null, config: null, split: null, columns: null, weight: null, max_rows: null}]"
            )
        return values

    @model_validator(mode="after")
    def check_sources(self) -> Self:
        """Weights are relative to each other, so all have one or none has; and no row is taken twice."""
        weighted = [source.weight is not None for source in self.sources]
        if any(weighted) and not all(weighted):
            raise ValueError("weight: all sources have one, or none has")
        same = [(source.source.rstrip("/"), source.revision, source.config, source.split) for source in self.sources]
        if len(set(same)) < len(same):
            twice = next(key for key in same if same.count(key) > 1)
            raise ValueError(f"{twice[0]} is in the list twice: repeated rows are duplicates, give a weight instead")
        return self


def fetch_data(demo: Input, custom: Input, raw: Output, params: FetchDataParams) -> None:
    """Copy the rows of the sources, in their order, into data/raw."""
    raw.mkdir(parents=True)
    opened = [SourceRows(demo, custom, source, params.limit) for source in params.sources]
    choose_rows(opened)
    known = [int(rows.mask.sum()) for rows in opened if rows.mask is not None]
    with progress("reading", sum(known) if len(known) == len(opened) else None) as advance:
        write_parquet(raw / contract.ROWS, read_batches(opened, advance), contract.SCHEMA)
    sources = [
        rows.source.model_dump() | {"files": rows.digests, "rows_seen": rows.seen, "rows": rows.taken}
        for rows in opened
    ]
    note_sources(opened, demo, params.limit, [source.max_rows for source in params.sources])
    total = sum(rows.taken for rows in opened)
    write_json(raw / contract.SOURCE, {"limit": params.limit, "rows": total, "sources": sources})
    for rows in opened:
        named = ", ".join((files := list(rows.digests))[:3]) + (f" and {len(files) - 3} more" if files[3:] else "")
        of = f"the first {rows.seen} rows (fetch_data.limit)" if rows.seen == params.limit else f"{rows.seen} rows"
        count = "" if rows.seen == params.limit == rows.taken else f"{rows.taken} of "
        log.info("%s%s from %s (%s)", count, of, rows.source.source, named)


class SourceRows:
    """The rows of one source, as often as they are asked for; its files are fetched when their rows are."""

    def __init__(self, demo: Path, custom: Path, source: DataSource, limit: int | None) -> None:
        """`limit`: rows from the beginning; None: all."""
        self.source, self.limit = source, limit
        self.coming = find_source_files(demo, custom, source.source, source.revision, source.config, source.split)
        self.paths: dict[str, Path] = {}
        self.digests: dict[str, str] = {}
        self.mask: Mask | None = None
        self.seen = self.taken = 0

    def __iter__(self) -> Iterator[tuple[str, int, bytes]]:
        """(file, place, record) of each row, from the beginning. Raises StageError if there is none."""
        self.seen = 0
        for row in islice(self.read_all(), self.limit):
            self.seen += 1
            yield row
        if not self.seen:
            raise StageError(f"{self.source.source} holds no rows")

    def read_all(self) -> Iterator[tuple[str, int, bytes]]:
        """The rows past the limit, too."""
        for name, path in chain(list(self.paths.items()), self.coming):
            self.paths[name] = path
            found = read_rows(path, name)
            if name not in self.digests:
                self.digests[name] = sha256_file(path)
            for place, record in found:
                yield name, place, record


def choose_rows(opened: Sequence[SourceRows]) -> None:
    """Set the masks of the sources that weights or caps speak of; these are read once for it."""
    some = [rows for rows in opened if rows.source.weight is not None or rows.source.max_rows is not None]
    hashes = []
    for rows in some:
        with progress(f"choosing from {rows.source.source}") as advance:
            hashes.append(hashes_of(show_progress((record for _, _, record in rows), advance)))
    counts = shares(
        [len(found) for found in hashes],
        [rows.source.max_rows for rows in some],
        [rows.source.weight for rows in some],
    )
    for rows, found, count in zip(some, hashes, counts, strict=True):
        rows.mask = choose_smallest(found, count)


def show_progress(records: Iterator[bytes], advance: Advance) -> Iterator[bytes]:
    """The records, counted for the eye."""
    for number, record in enumerate(records, start=1):
        yield record
        if number % BATCH_ROWS == 0:
            advance(BATCH_ROWS)


def read_batches(opened: Sequence[SourceRows], advance: Advance) -> Iterator[pa.RecordBatch]:
    """The rows that are taken, as data/raw's table, numbered from 0."""
    row = 0
    for number, rows in enumerate(opened):
        for file, chunk in chunk_rows(iter(rows) if rows.mask is None else compress(rows, rows.mask)):
            yield batch_of(row, number, file, chunk)
            row += len(chunk)
            rows.taken += len(chunk)
            advance(len(chunk))


def chunk_rows(rows: Iterator[tuple[str, int, bytes]]) -> Iterator[tuple[str, list[tuple[int, bytes]]]]:
    """(file, [(place, record)]): rows of one file, at most BATCH_ROWS and, one more at most, BATCH_BYTES."""
    for file, group in groupby(rows, key=itemgetter(0)):
        chunk: list[tuple[int, bytes]] = []
        size = 0
        for _, place, record in group:
            chunk.append((place, record))
            size += len(record)
            if len(chunk) == BATCH_ROWS or size >= BATCH_BYTES:
                yield file, chunk
                chunk, size = [], 0
        if chunk:
            yield file, chunk


def batch_of(row: int, source: int, file: str, chunk: list[tuple[int, bytes]]) -> pa.RecordBatch:
    """Rows of one file as a batch, made from buffers: `pa.array` of a list imports pandas first, a quarter of a second."""
    size = len(chunk)
    places, records = zip(*chunk, strict=True)
    numbers = [
        np.arange(row, row + size, dtype=np.int64),
        np.full(size, source, dtype=np.int32),
        np.array(places, dtype=np.int64),
    ]
    first, second, third = (
        pa.Array.from_buffers(kind, size, [None, pa.py_buffer(values)])
        for kind, values in zip((pa.int64(), pa.int32(), pa.int64()), numbers, strict=True)
    )
    columns = [first, second, text_array(pa.string(), [file.encode()] * size), third, text_array(pa.binary(), records)]
    return pa.RecordBatch.from_arrays(columns, schema=contract.SCHEMA)


def text_array(kind: pa.DataType, values: Sequence[bytes]) -> pa.Array:
    """Byte strings as an Arrow array of strings or binaries."""
    offsets = np.zeros(len(values) + 1, dtype=np.int32)
    np.cumsum([len(value) for value in values], out=offsets[1:])
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(values))])


def uses(params: FetchDataParams, _inputs: Mapping[str, Path]) -> dict[str, list[str]]:
    """Of data/custom the files and folders that sources name; the demo's dialogues only where it is one."""
    names = [source.source for source in params.sources if is_local(source.source)]
    found = {"custom": [name.removeprefix(CUSTOM) for name in names if name != DEMO]}
    return found if DEMO in names else {**found, "demo": []}


if __name__ == "__main__":
    leave_pandas_out()
    take_memory_from_system()
    run(fetch_data, uses)
