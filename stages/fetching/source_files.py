"""The files of a source: the demo's, one file or a folder of data/custom, or those of a hub dataset's config and split."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from stages.core.errors import StageError
from stages.fetching.hub import download, list_files
from stages.fetching.splits import choose_files, is_data

log = logging.getLogger("retune")

DEMO = "demo"
CUSTOM = "data/custom/"
CARD = "README.md"


def is_local(source: str) -> bool:
    """Whether a source is of this machine."""
    return source == DEMO or source.startswith(CUSTOM)


def find_source_files(
    demo: Path, custom: Path, source: str, revision: str | None, config: str | None, split: str | None
) -> Iterator[tuple[str, Path]]:
    """(name, path) of the source's files, in order. Those of the hub are fetched one by one, so a limit fetches no more than it needs."""
    if source == DEMO:
        yield demo.name, demo
    elif source.startswith(CUSTOM):
        yield from find_custom_files(custom, source, config, split)
    else:
        yield from fetch_hub_files(source, revision, config, split)


def find_custom_files(custom: Path, source: str, config: str | None, split: str | None) -> list[tuple[str, Path]]:
    """(name, path) of the file, or of the data files below the folder, that `source` names in data/custom.

    Raises StageError if it is not there, lies elsewhere (by `..` or by a link), or if it is not clear which of its files hold the rows.
    """
    name = source.removeprefix(CUSTOM).rstrip("/")
    path = custom / name
    if ".." in Path(source).parts or not name:
        raise outside(source)
    check_inside(path, custom, source)
    if not path.exists():
        raise StageError(f"{source} is not there; `retune use --data FILE_OR_FOLDER` brings one to {CUSTOM}")
    if not path.is_dir():
        return [(name, path)]
    listing, others = list_files_below(path, custom, source)
    card = (path / CARD).read_text(encoding="utf-8", errors="replace") if CARD in others else None
    found = choose_files(source, listing, card, config, split)
    if left := sorted({*listing, *others} - {*found, CARD}):
        were = "1 file was" if len(left) == 1 else f"{len(left)} files were"
        log.info("%s: %s not read: %s", source, were, ", ".join(left[:5]) + (" ..." if left[5:] else ""))
    return [(f"{name}/{file}", path / file) for file in found]


def list_files_below(folder: Path, custom: Path, source: str) -> tuple[list[str], list[str]]:
    """(files that may hold rows, other files) below a folder, relative to it; hidden ones left out.

    Raises StageError for a link out of data/custom, and for a link to a folder, whose files would else be missing.
    """
    data: list[str] = []
    others: list[str] = []

    def stop(error: OSError) -> None:
        raise StageError(f"{source}: the folder {Path(error.filename).name} in it cannot be read ({error.strerror})")

    for place, folders, files in os.walk(folder, onerror=stop):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        for name in [*folders, *files]:
            path = Path(place) / name
            check_name(name, source)
            if path.is_symlink() and (name in folders or is_data(name) or name == CARD):
                check_inside(path, custom, f"{source}: {path.relative_to(folder).as_posix()}")
                if name in folders:
                    raise StageError(
                        f"{source}: {path.relative_to(folder).as_posix()} is a link to a folder; put a copy there"
                    )
        for name in sorted(files):
            if not name.startswith("."):
                relative = (Path(place) / name).relative_to(folder).as_posix()
                (data if is_data(name) else others).append(relative)
    return data, others


def check_name(name: str, source: str) -> None:
    """Raise StageError for a name that no note of the sources could hold."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise StageError(f"{source}: the name {name!r} is not UTF-8; rename it") from error


def check_inside(path: Path, custom: Path, what: str) -> None:
    """Raise StageError if a path leads out of data/custom."""
    try:
        inside = path.resolve().is_relative_to(custom.resolve())
        path.exists()
    except (OSError, RuntimeError) as error:  # a link in a circle, a name too long
        raise StageError(f"{what} leads nowhere: {type(error).__name__}") from error
    if not inside:
        raise outside(what)


def outside(what: str) -> StageError:
    """The error for what is not in data/custom."""
    return StageError(f"{what} lies outside of {CUSTOM} (or is a link out of it); put a copy into the folder")


def fetch_hub_files(
    source: str, revision: str | None, config: str | None, split: str | None
) -> Iterator[tuple[str, Path]]:
    """The data files of a hub dataset's config and split."""
    if revision is None or split is None:
        raise TypeError("params let no hub source pass without revision and split")
    listing = list_files(source, revision, "dataset")
    card = download(source, revision, "dataset", listing[CARD]) if CARD in listing else None
    text = card.read_text(encoding="utf-8", errors="replace") if card else None
    for name in choose_files(source, list(listing), text, config, split):
        yield name, download(source, revision, "dataset", listing[name])
