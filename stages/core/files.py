"""Files as the pipeline writes and proves them: deterministic JSON, sha256 of files and folders, the scratch folder."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from stages.core.errors import StageError

if TYPE_CHECKING:
    from pydantic import BaseModel

M = TypeVar("M", bound="BaseModel")
REMEDY = "`retune verify` says what brings it back"


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 with Unix line ends, by a temporary name and a rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    temporary.replace(path)


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON: sorted keys, two spaces, one line end, no NaN (it is not JSON). The same value gives the same bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:  # noqa: ANN401 - JSON has no narrower type; the caller's contract gives one
    """The JSON value in a file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises StageError, with the file and what is wrong, if it holds none."""
    try:
        value = read_json(path)
    except OSError as error:
        raise StageError(f"{show_path(path)} cannot be read: {error.strerror or error}; {REMEDY}") from error
    except (ValueError, RecursionError) as error:
        raise StageError(f"{show_path(path)} is no whole JSON file: it is cut off or damaged; {REMEDY}") from error
    if not isinstance(value, dict):
        raise StageError(f"{show_path(path)} holds no JSON object: it is damaged; {REMEDY}")
    return value


def read_json_as(path: Path, model: type[M]) -> M:
    """The same with the fields of a pydantic model; what it does not name is left out. Raises StageError where a field is not as it says."""
    from pydantic import ValidationError

    try:
        return model.model_validate(read_json_object(path), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place, said = ".".join(map(str, first["loc"])), first["msg"]
        raise StageError(f"{show_path(path)} is damaged: {place}: {said}; {REMEDY}") from error


def show_path(path: Path) -> Path:
    """The path as seen from here, where it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(path: Path) -> list[Path]:
    """Every regular file below a folder (or the file itself), sorted by its relative path; compiled Python left out."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)


def sha256_files(path: Path) -> dict[str, str]:
    """{relative path: sha256} of a folder's files; for a file, its own name."""
    return {
        (file.relative_to(path).as_posix() if path.is_dir() else file.name): sha256_file(file)
        for file in files_below(path)
    }


def sha256_tree(digests: Mapping[str, str]) -> str:
    """One sha256 for {relative path: sha256}: of the lines `sha256  path`, sorted by path, as `sha256sum` writes them."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    # names of files need not be UTF-8
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def scratch(root: Path | None = None) -> Path:
    """The project's scratch folder `.retune/`: caches, checkpoints, kept code. In no cache key, ignored by git and DVC."""
    folder = (root or Path.cwd()) / ".retune"
    folder.mkdir(exist_ok=True)
    return folder
