"""What a GGUF file says of its origin: bytes that anybody can have written."""

from pathlib import Path
from typing import Any

from stages.core.errors import StageError

KEPT = ("retune.", "general.base_model.", "general.dataset.", "general.name", "general.license")
"""How keys begin that tell of a file's origin."""


def read_said(file: Path) -> dict[str, Any]:
    """The metadata that tell of a file's origin, in the file's order. Raises StageError for a file that is no whole GGUF file."""
    from stages.llama_cpp.gguf_reader import open_gguf

    try:
        reader = open_gguf(file)
        return {
            str(name): field.contents()
            for name, field in reader.fields.items()
            if name.startswith(KEPT) and not name.endswith(".count")
        }
    except Exception as error:
        raise StageError(f"{file} is no whole GGUF file ({type(error).__name__} in its metadata)") from error
