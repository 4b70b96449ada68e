"""Which GGUF file `retune chat` and `retune serve` take."""

from pathlib import Path

from stages.contracts.gguf import CHECKS
from stages.errors import StageError
from stages.files import read_json


def chosen(root: Path, file: Path | None) -> Path:
    """The file that was asked for, or the first of data/gguf, in the order of its checks.json. Raises StageError if it is not there."""
    folder = root / "data/gguf"
    names = list(read_json(folder / CHECKS)["files"]) if (folder / CHECKS).is_file() else []
    if file is None and not names:
        raise StageError(
            "there is no GGUF file in data/gguf: `dvc repro gguf` makes them, `retune restore gguf` brings them back"
        )
    path = file or folder / names[0]
    if path.is_file():
        return path
    inside = folder / path.name
    if inside.is_file():
        return inside
    known = f"; data/gguf holds {', '.join(names)}" if names else ""
    raise StageError(f"{path.name} is not there{known}")
