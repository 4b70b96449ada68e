"""Your own data and model, brought where the stages read them: data/custom/ and data/custom_base/."""

import contextlib
import difflib
import filecmp
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from retune.project import give_up
from stages.core.value_differences import show_text

# what fetch_model reads of a folder: pickled weights, checkpoints and logs stay where they are
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")


COLUMN_KEYS = ("prompt", "answer", "system", "messages")
BY_LOOKING = ("", "-")
"""A `--columns` that names none."""


def override_sources(root: Path, data: Sequence[Path], columns: Sequence[str]) -> list[str]:
    """The override that makes what `--data` brings the sources; empty without. Ends the program if that cannot be used.

    `columns`: as many as data, in their order, or none.
    """
    if columns and not data:
        give_up("--columns speaks of what --data brings; for other sources `--set fetch_data.sources.0.columns={...}`")
    if columns and len(columns) != len(data):
        give_up(
            f"--columns: {len(columns)} for {len(data)} --data; give one for each, in their order, and `--columns -` where looking tells"
        )
    mappings = [None if text in BY_LOOKING else read_columns(text) for text in columns] or [None] * len(data)
    names = [name_of(path) for path in data]
    if twice := next((name for name in names if names.count(name) > 1), None):
        give_up(f"--data: two are named {twice}; rename one of them")
    for path in data:
        check_data(root, path)
    # JSON is YAML, and a list over lines stays one when it is written
    sources = [
        f"\n- source: {json.dumps(f'data/custom/{name}', ensure_ascii=False)}\n  revision: null\n  config: null\n  split: null\n"
        f"  columns: {json.dumps(mapping, ensure_ascii=False)}\n  weight: null\n  max_rows: null"
        for name, mapping in zip(names, mappings, strict=True)
    ]
    return [f"fetch_data.sources={''.join(sources)}"] if data else []


def check_data(root: Path, path: Path) -> None:
    """End the program if this is no file or folder that can be brought."""
    from stages.dataset_files.file_kinds import KNOWN, ending_of

    if not path.exists():
        give_up(f"--data {show_text(str(path))}: no such file or folder")
    if path.is_file() and not ending_of(path.name):
        give_up(f"--data {show_text(str(path))}: a dataset is a folder, or a file that ends in {KNOWN}")
    if path.is_dir() and root.resolve().is_relative_to(path.resolve()):
        give_up(f"--data {show_text(str(path))}: this project lies in that folder")
    if path.is_dir() and path.resolve() == (root / "data" / "custom").resolve():
        give_up("--data: data/custom is where data is brought to; name a file or a folder in it")
    if path.is_dir() and not list_data_files(path):
        give_up(f"--data {show_text(str(path))}: no file in it ends in {KNOWN}")


def read_columns(text: str) -> dict[str, str | None]:
    """`prompt=q,answer=a` as params name it. Ends the program if it is something else."""
    named: dict[str, str | None] = {}
    for part in text.split(","):
        key, equals, column = part.partition("=")
        if not equals or not column or key.strip() in named:
            give_up(f"--columns {text}: write it as prompt=COLUMN,answer=COLUMN or as messages=COLUMN")
        named[key.strip()] = column.strip()
    if unknown := [key for key in named if key not in COLUMN_KEYS]:
        near = difflib.get_close_matches(unknown[0], COLUMN_KEYS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        give_up(f"--columns {text}: unknown {', '.join(unknown)}; known are {', '.join(COLUMN_KEYS)}{hint}")
    if set(named) != {"messages"} and not {"prompt", "answer"} <= set(named) <= {"prompt", "answer", "system"}:
        give_up(f"--columns {text}: it names prompt and answer (and perhaps system), or messages alone")
    return named if "messages" in named else {"system": None, **named}


def override_base(root: Path, model: Path | None) -> list[str]:
    """The overrides that name what `--model` brings; empty without. Ends the program if that cannot be used."""
    if model is None:
        return []
    if not (model / "config.json").is_file() or not any(model.glob("*.safetensors")):
        give_up(f"--model {model}: a model is a folder with config.json and *.safetensors")
    if model.resolve() == (root / "data" / "custom_base").resolve():
        give_up(
            "--model: data/custom_base is where models are brought to; `--set fetch_model.source=custom` uses what is there"
        )
    # the licence was the former base's
    return ["fetch_model.source=custom", "fetch_model.revision=null", "gguf.license=null"]


def list_data_files(folder: Path) -> list[Path]:
    """The files below a folder that may hold rows, and the card that says which; relative to it. Links to folders are not followed."""
    from stages.fetching.source_files import CARD
    from stages.fetching.splits import is_data

    relative = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    found = [path for path in relative if is_data(path.as_posix())]
    return sorted([*found, *(path for path in relative if path.as_posix() == CARD)]) if found else []


@contextlib.contextmanager
def bring_files(root: Path, data: Sequence[Path], model: Path | None) -> Iterator[Any]:
    """Put the user's files where the stages read them; take them away again unless the block calls what it is given.

    The copies are made in the scratch folder first, so what DVC looks at changes in one moment or not at all.
    """
    incoming = root / ".retune" / "incoming"
    shutil.rmtree(incoming, ignore_errors=True)
    for name in ("new", "old"):
        (incoming / name).mkdir(parents=True)
    targets = [  # (the copy, where it goes)
        (copy_data(path, incoming / "new" / "data" / name_of(path)), root / "data" / "custom" / name_of(path))
        for path in data
        if path.resolve() != (root / "data" / "custom" / name_of(path)).resolve()
    ]
    if model is not None:
        folder = root / "data" / "custom_base"
        files = sorted({path for pattern in MODEL_FILES for path in model.glob(pattern) if path.is_file()})
        targets += [(copy_file(path, incoming / "new" / "model" / path.name), folder / path.name) for path in files]
    moved: list[tuple[Path, Path]] = []
    kept: list[bool] = []
    try:
        if model is not None:  # a file of the model before would be taken for one of this
            for path in sorted((root / "data" / "custom_base").glob("[!.]*")):
                move(path, incoming / "old" / "model" / path.name, moved)
        for copy, target in targets:
            if target.exists():
                move(target, incoming / "old" / "data" / target.name, moved)
            move(copy, target, moved)
        yield lambda: kept.append(True)
    finally:
        if not kept:
            for origin, target in reversed(moved):
                target.replace(origin)
        shutil.rmtree(incoming, ignore_errors=True)


def find_replaced(root: Path, data: Sequence[Path]) -> list[str]:
    """Of what `--data` brings: the names under which data/custom holds something else."""
    places = [(path, root / "data" / "custom" / name_of(path)) for path in data]
    return [f"data/custom/{place.name}" for path, place in places if place.exists() and not is_same(path, place)]


def is_same(path: Path, place: Path) -> bool:
    """Whether what was brought to a place before is what would be brought now."""
    if path.is_dir() and place.is_dir():
        files = list_data_files(path)
        return files == list_data_files(place) and all(is_same(path / file, place / file) for file in files)
    return path.is_file() and place.is_file() and filecmp.cmp(path, place, shallow=False)


def name_of(path: Path) -> str:
    """What a file or folder is called; of a link its own name."""
    return path.resolve().name if path.name in ("", "..") else path.name


def copy_data(source: Path, target: Path) -> Path:
    """Copy a file, or what a folder has of data."""
    if source.is_file():
        return copy_file(source, target)
    for file in list_data_files(source):
        copy_file(source / file, target / file)
    return target


def copy_file(source: Path, target: Path) -> Path:
    """Copy the bytes of a file, through a link too."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return target


def move(origin: Path, target: Path, moved: list[tuple[Path, Path]]) -> None:
    """Move within the file system, and note it, so that it can be undone."""
    target.parent.mkdir(parents=True, exist_ok=True)
    origin.replace(target)
    moved.append((origin, target))
