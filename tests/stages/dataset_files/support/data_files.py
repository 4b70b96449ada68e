"""Dataset files for the tests of fetch_data, and the stage run on them."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.fetch_data import FetchDataParams, fetch_data

REVISION = "c" * 40
ALONE: Mapping[str, object] = {
    "revision": None,
    "config": None,
    "split": None,
    "columns": None,
    "weight": None,
    "max_rows": None,
}


def params(*sources: str | dict[str, object], limit: int | None = None, **changed: object) -> FetchDataParams:
    """Params of these sources; what is changed is changed in each."""
    listed = [
        {"source": source} if isinstance(source, str) else source for source in sources or ("data/custom/mine.jsonl",)
    ]
    return FetchDataParams(sources=[{**ALONE, **source, **changed} for source in listed], limit=limit)


def fetch(tmp_path: Path, files: Mapping[str, bytes], wanted: FetchDataParams) -> list[dict[str, Any]]:
    """The rows of data/raw that these files in data/custom give."""
    for name, content in files.items():
        (tmp_path / "custom" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "custom" / name).write_bytes(content)
    raw = tmp_path / f"raw{sum(1 for _ in tmp_path.glob('raw*'))}"
    fetch_data(tmp_path / "demo.jsonl", tmp_path / "custom", raw, wanted)
    rows = pq.read_table(raw / "rows.parquet").to_pylist()
    noted = json.loads((raw / "source.json").read_text())
    assert [row["row"] for row in rows] == list(range(len(rows)))
    assert noted["rows"] == len(rows) == sum(source["rows"] for source in noted["sources"])
    return rows


def noted(tmp_path: Path) -> dict[str, Any]:
    """The note of the last fetch."""
    last = max(tmp_path.glob("raw*"), key=lambda path: int(path.name.removeprefix("raw")))
    found: dict[str, Any] = json.loads((last / "source.json").read_text())
    return found


def parquet(rows: list[dict[str, object]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue().to_pybytes())


def packed(content: bytes, ending: str) -> bytes:
    """Packed as .gz or .zst, as two members one after the other; else as it is."""
    half = len(content) // 2
    if ending == ".gz":
        return gzip.compress(content[:half]) + gzip.compress(content[half:])
    if ending == ".zst":
        codec = pa.Codec("zstd")
        return bytes(codec.compress(content[:half], asbytes=True) + codec.compress(content[half:], asbytes=True))
    return content
