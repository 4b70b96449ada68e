"""Which GGUF file `retune chat` and `retune serve` take."""

from pathlib import Path

from stages.contracts.gguf import CHECKS
from stages.core.errors import StageError
from stages.core.files import read_json
from stages.core.params import read_params


def choose_file(root: Path, file: Path | None) -> tuple[Path, Path | None]:
    """The file that was asked for, or of data/gguf that of the first quantization in params.yaml, as README.md and Modelfile take it.

    Of an adapter alone: the file of its base beside it, and the adapter to lay over it; else (file, None).

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
            return find_model_under(found)
    known = f"; data/gguf holds {', '.join(names)}" if names else ""
    raise StageError(f"{path.name} is not there{known}")


def find_model_under(path: Path) -> tuple[Path, Path | None]:
    """(the model, an adapter to lay over it) that a GGUF file is. Raises StageError for an adapter without its base, and for no model."""
    from stages.llama_cpp.gguf_reader import open_gguf, read_metadata

    try:
        kind = read_metadata(open_gguf(path), "general.type")
    except (ValueError, OSError, KeyError, IndexError):
        return path, None  # who runs it says what is wrong with it
    if kind == "imatrix":
        raise StageError(f"{path.name} is an importance matrix, which files are quantized with, and no model")
    if kind != "adapter":
        return path, None
    checks = path.with_name(CHECKS)
    lora = read_json(checks)["lora"] if checks.is_file() else None
    over = lora["over"]["file"] if lora and lora["file"] == path.name else None
    if over is None or not path.with_name(over).is_file():
        raise StageError(
            f"{path.name} is the adapter alone, and no file of its base lies beside it: set gguf.lora_base, and `dvc repro gguf` writes one"
        )
    return path.with_name(over), path
