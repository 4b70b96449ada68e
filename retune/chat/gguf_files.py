"""Which GGUF file `retune chat` and `retune serve` take."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from stages.contracts.gguf import CHECKS
from stages.core.errors import StageError
from stages.core.files import read_json_as
from stages.core.params import read_params
from stages.core.value_differences import show_text


class ExportedFile(BaseModel):
    """An exported file, as far as it is chosen by it."""

    quantization: str | None = None


class OverFile(BaseModel):
    """The base that an adapter's file lies over; no name where it was not kept."""

    file: str | None


class AdapterFile(BaseModel):
    """The adapter alone."""

    file: str
    over: OverFile


class ExportedFiles(BaseModel):
    """What checks.json says of the files beside it, as far as whoever runs one needs it."""

    files: dict[str, ExportedFile]
    lora: AdapterFile | None = None
    stop: list[str]
    stops_by: Literal["token", "text"]


def read_exported(folder: Path) -> ExportedFiles | None:
    """The checks.json of a folder; None if there is none. Raises StageError if it is damaged."""
    return read_json_as(folder / CHECKS, ExportedFiles) if (folder / CHECKS).is_file() else None


def read_stop_texts(path: Path) -> tuple[str, ...]:
    """The texts that end an answer of an exported file where no token does. Raises StageError for a damaged checks.json."""
    found = read_exported(path.parent)
    if found is None or found.stops_by != "text":
        return ()
    names = {*found.files, *([found.lora.over.file] if found.lora else [])}
    return tuple(found.stop) if path.name in names else ()


def choose_file(root: Path, file: Path | None) -> tuple[Path, Path | None]:
    """The file that was asked for, or of data/gguf that of the first quantization in params.yaml, as README.md and Modelfile take it.

    Of an adapter alone: the file of its base beside it, and the adapter to lay over it; else (file, None).

    Raises StageError if it is not there, or is no model.
    """
    folder = root / "data/gguf"
    exported = read_exported(folder)
    made = exported.files if exported else {}
    wanted = read_params(root / "params.yaml").get("gguf", {}).get("quantizations", [])
    order = {name: number for number, name in enumerate(wanted)}
    names = sorted(made, key=lambda file: order.get(made[file].quantization, len(order)))
    if file is None and not names:
        raise StageError(
            "there is no GGUF file in data/gguf: `dvc repro gguf` makes them, `retune restore gguf` brings them back"
        )
    path = file or folder / names[0]
    for found in (path, folder / path.name):
        if found.is_file():
            return find_model_under(found)
    known = f"; data/gguf holds {', '.join(names)}" if names else ""
    raise StageError(f"{show_text(path.name)} is not there{known}")


def find_model_under(path: Path) -> tuple[Path, Path | None]:
    """(the model, an adapter to lay over it) that a GGUF file is. Raises StageError for an adapter without its base, and for no model."""
    from stages.llama_cpp.gguf_reader import open_gguf, read_metadata

    try:
        kind = read_metadata(open_gguf(path), "general.type")
    except (ValueError, OSError, KeyError, IndexError):
        return path, None  # who runs it says what is wrong with it
    if kind == "imatrix":
        raise StageError(
            f"{show_text(path.name)} is an importance matrix, which files are quantized with, and no model"
        )
    if kind != "adapter":
        return path, None
    exported = read_exported(path.parent)
    lora = exported.lora if exported else None
    over = lora.over.file if lora and lora.file == path.name else None
    if over is None or not path.with_name(over).is_file():
        raise StageError(
            f"{show_text(path.name)} is the adapter alone, and no file of its base lies beside it: set gguf.lora_base, and `dvc repro gguf` writes one"
        )
    return path.with_name(over), path
