"""The dataset as it came, as one Parquet file of JSON records, with a note of where it is from.

Reads   data/demo/dialogues.jsonl, data/custom/, or a dataset of the hub at a pinned revision
Writes  data/raw (rows.parquet, source.json)
Command python -m stages.fetch_data --demo data/demo/dialogues.jsonl --custom data/custom --raw data/raw
"""

import logging
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Self

import pyarrow as pa
from pydantic import Field, model_validator

from stages.contracts import raw as contract
from stages.entry import Input, Output, run
from stages.errors import StageError
from stages.files import sha256_file, write_json
from stages.hub import Revision, check_revision, download, list_files
from stages.params import Params
from stages.records import records
from stages.splits import files_of
from stages.tables import write_parquet

log = logging.getLogger("retune")

DEMO = "demo"
CUSTOM = "data/custom/"
BATCH_ROWS = 1_000
BATCH_BYTES = 16 * 2**20


class FetchDataParams(Params):
    """Where the rows come from."""

    source: str
    """`demo`, `data/custom/FILE` (.jsonl, .json, .parquet, .csv), or a dataset of the hub, OWNER/NAME."""
    revision: Revision | None
    """The commit of a hub dataset, 40 hex characters; null for a local source."""
    config: str | None
    """The config (subset) of a hub dataset; null: its only or default one."""
    split: str | None
    """The split of a hub dataset, such as train; null for a local source."""
    limit: Annotated[int, Field(ge=1)] | None
    """Rows taken from the beginning: a dry run. null: all."""

    @model_validator(mode="after")
    def check_source(self) -> Self:
        """The keys of a hub dataset stand with a hub dataset, and only there."""
        local = self.source == DEMO or self.source.startswith(CUSTOM)
        if not local and self.source.endswith((".jsonl", ".json", ".parquet", ".csv")):
            raise ValueError(
                f"source looks like a file: a local one is {CUSTOM}FILE (`retune use --data FILE` brings it there)"
            )
        check_revision(self.source, self.revision, local=local)
        if local and (self.config is not None or self.split is not None):
            raise ValueError(f"config and split must be null for {self.source}, which is local")
        if not local and self.split is None:
            raise ValueError(f"split must name a split of {self.source}, such as train")
        return self


def fetch_data(demo: Input, custom: Input, raw: Output, params: FetchDataParams) -> None:
    """Copy the rows of the source, in their order, into data/raw."""
    raw.mkdir(parents=True)
    digests: dict[str, str] = {}
    found = islice(rows_of(source_files(demo, custom, params), digests), params.limit)
    rows = write_rows(raw / contract.ROWS, found)
    if not rows:
        raise StageError(f"{params.source} holds no rows")
    source = params.model_dump() | {"files": digests, "rows": rows}
    write_json(raw / contract.SOURCE, source)
    log.info("%d rows from %s (%s)", rows, params.source, ", ".join(digests))


def source_files(demo: Path, custom: Path, params: FetchDataParams) -> Iterator[tuple[str, Path]]:
    """(name, path) of the source's files, in order. Those of the hub are fetched one by one, so a limit fetches no more than it needs."""
    if params.source == DEMO:
        yield demo.name, demo
    elif params.source.startswith(CUSTOM):
        yield params.source.removeprefix(CUSTOM), custom_file(custom, params.source)
    else:
        yield from hub_files(params)


def custom_file(custom: Path, source: str) -> Path:
    """The file in data/custom that `source` names. Raises StageError if it lies elsewhere, by `..` or by a link."""
    path = custom / source.removeprefix(CUSTOM)
    if not path.resolve().is_relative_to(custom.resolve()) or ".." in Path(source).parts:
        raise StageError(
            f"fetch_data.source: {source} lies outside of {CUSTOM} (or is a link out of it); put a copy into the folder"
        )
    return path


def hub_files(params: FetchDataParams) -> Iterator[tuple[str, Path]]:
    """The data files of a hub dataset's config and split."""
    if params.revision is None or params.split is None:
        raise TypeError("FetchDataParams lets no hub source pass without revision and split")
    listing = list_files(params.source, params.revision, "dataset")
    card = download(params.source, params.revision, "dataset", listing["README.md"]) if "README.md" in listing else None
    text = card.read_text(encoding="utf-8", errors="replace") if card else None
    for name in files_of(params.source, list(listing), text, params.config, params.split):
        yield name, download(params.source, params.revision, "dataset", listing[name])


def rows_of(files: Iterable[tuple[str, Path]], digests: dict[str, str]) -> Iterator[bytes]:
    """The records of all files; {name: sha256} of those that were opened goes into `digests`."""
    for name, path in files:
        found = records(path, name)
        digests[name] = sha256_file(path)
        yield from found


def write_rows(path: Path, found: Iterator[bytes]) -> int:
    """Write records as data/raw's table, numbered from 0; how many there were."""
    count = 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal count
        for chunk in chunks(found):
            numbers = pa.array(range(count, count + len(chunk)), pa.int64())
            count += len(chunk)
            yield pa.RecordBatch.from_arrays([numbers, pa.array(chunk, pa.binary())], schema=contract.SCHEMA)

    write_parquet(path, batches(), contract.SCHEMA)
    return count


def chunks(found: Iterator[bytes]) -> Iterator[list[bytes]]:
    """Records in lists of at most BATCH_ROWS and, one more at most, BATCH_BYTES."""
    chunk: list[bytes] = []
    size = 0
    for record in found:
        chunk.append(record)
        size += len(record)
        if len(chunk) == BATCH_ROWS or size >= BATCH_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


if __name__ == "__main__":
    run(fetch_data)
