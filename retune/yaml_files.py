"""YAML files of the project that are not params: dvc.yaml and dvc.lock."""

from pathlib import Path
from typing import Any


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's mapping, read as DVC reads it. Raises StageError, with the file's name, for what is none."""
    from stages.core.errors import StageError
    from stages.dvc_lock.lock import load_yaml

    remedy = f"`git checkout -- {path.name}` brings back what was committed"
    try:
        values = load_yaml(path.name, path.read_text(encoding="utf-8")) or {}
    except UnicodeDecodeError as error:
        raise StageError(f"{path.name} is not UTF-8; {remedy}") from error
    except StageError as error:
        raise StageError(f"{error}; {remedy}") from error
    if not isinstance(values, dict):
        raise StageError(f"{path.name} holds no mapping; {remedy}")
    return values
