"""Which GGUF file `retune chat` and `retune serve` take."""

from pathlib import Path

from stages.contracts.gguf import CHECKS
from stages.errors import StageError
from stages.files import read_json
from stages.params import read_params


def chosen(root: Path, file: Path | None) -> Path:
    """The file that was asked for, or of data/gguf that of the first quantization in params.yaml, as README.md and Modelfile take it.

    Raises StageError if it is not there, or is no model.
    """
    folder = root / "data/gguf"
    made = read_json(folder / CHECKS)["files"] if (folder / CHECKS).is_file() else {}
    wanted = read_params(root / "params.yaml").get("gguf", {}).get("quantizations", [])
    order = {name: number for number, name in enumerate(wanted)}
    names = sorted(made, key=lambda file: order.get(made[file].get("quantization"), len(order)))
    if file is None and not names:
        raise StageError(
            "there is no GGUF file in data/gguf: `dvc repro gguf` makes them, `retune restore gguf` brings them back"
        )
    path = file or folder / names[0]
    for found in (path, folder / path.name):
        if found.is_file():
            refuse_parts(found)
            return found
    known = f"; data/gguf holds {', '.join(names)}" if names else ""
    raise StageError(f"{path.name} is not there{known}")


def refuse_parts(path: Path) -> None:
    """Raise StageError for a GGUF file that is no model: an adapter, an importance matrix."""
    from stages.llama_cpp.quantize import metadata
    from stages.llama_cpp.reading import open_gguf

    try:
        kind = metadata(open_gguf(path), "general.type")
    except (ValueError, OSError, KeyError, IndexError):
        return  # who runs it says what is wrong with it
    if kind == "adapter":
        raise StageError(
            f"{path.name} is the adapter alone, to lay over a file of its base: data/gguf/README.md has the command"
        )
    if kind == "imatrix":
        raise StageError(f"{path.name} is an importance matrix, which files are quantized with, and no model")
