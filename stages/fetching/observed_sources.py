"""Where the rows really came from: what stands against `fetch_data.sources` in the execution record."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from stages.core.execution import guard_notes, note_choice, note_ran, note_unknown
from stages.fetching.hub import read_cached_origin
from stages.fetching.source_files import CUSTOM, DEMO


class ReadSource(Protocol):
    """One source, read."""

    paths: dict[str, Path]
    """{name: the file that was read}."""
    mask: Any
    """Which rows were chosen; None: all."""
    seen: int
    taken: int


@guard_notes
def note_sources(sources: Sequence[ReadSource], demo: Path, limit: int | None, caps: Sequence[int | None]) -> None:
    """Note the sources for the execution record.

    Args:
        sources: as they were read.
        demo: the demo's file.
        limit: rows from the beginning of each; None: all.
        caps: what `max_rows` of each asks for; None: no cap.
    """
    for number, source in enumerate(sources):
        key = f"fetch_data.sources.{number}"
        note_ran({f"{key}.{name}": value for name, value in tell_origin(source.paths, demo).items()})
        note_unknown(
            "the names of the files that were read are in data/raw/source.json", f"{key}.config", f"{key}.split"
        )
        note_unknown("`standardize` reads the columns", f"{key}.columns")
        if source.mask is None:
            note_ran({f"{key}.weight": None, f"{key}.max_rows": None})
        else:
            note_cap(f"{key}.max_rows", source, caps[number])
            note_unknown(f"{source.taken} of {source.seen} rows were taken: shares are of whole rows", f"{key}.weight")
    most = max(source.seen for source in sources)
    note_ran({"fetch_data.limit": None if limit is None else most}, "no source has as many rows")


def note_cap(key: str, source: ReadSource, cap: int | None) -> None:
    """Note how many rows were taken; without a cap, all of them are what was asked."""
    if source.taken == source.seen:
        note_ran({key: None if cap is None else source.taken}, "there are fewer rows")
    else:
        note_choice({key: source.taken}, "the weights ask for fewer")


def tell_origin(paths: Mapping[str, Path], demo: Path) -> dict[str, str | None]:
    """{`source`, `revision`} by the files that were read: as params.yaml names a file, a folder, the demo or a dataset of the hub."""
    cached = [origin for path in paths.values() if (origin := read_cached_origin(path))]
    if cached:
        name, revision = cached[0]
        return {"source": name, "revision": revision}
    if demo in paths.values():
        return {"source": DEMO, "revision": None}
    # a folder's files are named with it; a file of a folder in data/custom may be a source itself
    tops = {name.partition("/")[0] if len(paths) > 1 else name for name in paths}
    return {"source": f"{CUSTOM}{'+'.join(sorted(tops))}", "revision": None}
