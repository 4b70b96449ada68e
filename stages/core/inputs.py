"""What a stage reads: hashed before the work, held against what is there after it, and told in its record.

An input is read whole, unless the params leave some of it aside: of the user's folders (data/custom ...) and of the demo, a stage
says which files its params ask for. No other file there is in its record, so a stray one makes no model another one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.core.errors import StageError
from stages.core.files import files_below, sha256_file, sha256_tree

Uses = Callable[[Any, Mapping[str, Path]], Mapping[str, Sequence[str]]]
"""Of a stage's params and inputs: {input: the files and folders below it that are read, relative to it; [] for an input that is not read at
all}. An input that is not named is read whole."""


@dataclass(frozen=True)
class Read:
    """An input as it was before the work."""

    path: Path
    whole: bool
    """Whether all of it is read."""
    digests: Mapping[str, str]
    """{relative path: sha256} of what is read."""
    mark: list[tuple[str, int, int, int]]

    def files(self) -> list[Path]:
        """The files that were read."""
        # of an input that is a file, its own name is the relative path
        return [
            self.path / file if file != self.path.name or self.path.is_dir() else self.path for file in self.digests
        ]

    def record(self) -> dict[str, Any]:
        """{path, sha256 of what is read}, and sha256 of each file where not all of it is."""
        files = {} if self.whole else {"files": dict(self.digests)}
        return {"path": self.path.as_posix(), "sha256": sha256_tree(self.digests), **files}


def read_inputs(name: str, inputs: Mapping[str, Path], uses: Uses | None, params: object) -> dict[str, Read]:
    """Hash what a stage reads. Raises StageError for an input that is missing (and says what makes it) or cannot be read."""
    for key, path in inputs.items():
        if not path.exists():
            raise StageError(f"--{key} {path} does not exist; `dvc repro {name}` makes what stands before this stage")
    found = files_read(inputs, uses, params)
    try:
        return {
            key: Read(inputs[key], whole, {file: sha256_file(path) for file, path in files.items()}, change_mark(files))
            for key, (whole, files) in found.items()
        }
    except OSError as error:
        raise StageError(f"{error.filename} cannot be read ({error.strerror})") from error


def changed_inputs(before: Mapping[str, Read], uses: Uses | None, params: object) -> list[Path]:
    """The inputs whose bytes are others than before, or cannot be read any more; they are read again only if something moved."""
    try:
        found = files_read({key: read.path for key, read in before.items()}, uses, params)
    except OSError as error:
        gone = [read.path for read in before.values() if not all(map(Path.exists, read.files()))]
        return gone or [Path(error.filename)]
    return [read.path for key, read in before.items() if has_changed(read, found[key][1])]


def has_changed(before: Read, files: Mapping[str, Path]) -> bool:
    """Whether the bytes of an input, whose files these are now, are others than before."""
    try:
        if change_mark(files) == before.mark:
            return False
        return {file: sha256_file(path) for file, path in files.items()} != before.digests
    except OSError:
        return True


def files_read(
    inputs: Mapping[str, Path], uses: Uses | None, params: object
) -> dict[str, tuple[bool, dict[str, Path]]]:
    """{input: (whether all of it is read, {relative path: file} of what is read)}; hidden files in a chosen folder are left out."""
    chosen = uses(params, inputs) if uses else {}
    unknown = chosen.keys() - inputs.keys()
    if unknown:
        raise TypeError(f"{', '.join(sorted(unknown))}: no such input")
    found = {}
    for key, path in inputs.items():
        if key not in chosen:
            files = files_below(path)
        else:
            files = [file for name in sorted(set(chosen[key])) for file in visible_below(path / name)]
        named = {(file.relative_to(path).as_posix() if file != path else file.name): file for file in files}
        found[key] = (key not in chosen, named)
    return found


def visible_below(path: Path) -> list[Path]:
    """A file, or the files below a folder without hidden ones; none where there is nothing: the stage tells what is missing."""
    return [
        file for file in files_below(path) if not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]


def change_mark(files: Mapping[str, Path]) -> list[tuple[str, int, int, int]]:
    """What moves when one of the files is written, added or removed: names, sizes, modification and change times."""
    stats = [(name, file.stat()) for name, file in files.items()]
    return [(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in stats]
