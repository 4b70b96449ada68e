"""What params.yaml says, as far as it can be read."""

from pathlib import Path
from typing import Any

from retune.doctor.finding import Finding


def read_params(root: Path) -> dict[str, Any]:
    """params.yaml's values; empty if it cannot be read (`check_params` says so)."""
    from stages.core.errors import StageError
    from stages.core.params import read_params as read

    try:
        return read(root / "params.yaml")
    except StageError:
        return {}


def param_value(params: dict[str, Any], section: str, key: str) -> Any:  # noqa: ANN401 - YAML as it comes
    """A param, or None."""
    found = params.get(section)
    return found.get(key) if isinstance(found, dict) else None


def check_params(root: Path) -> Finding:
    """params.yaml, checked as the stage `check` does."""
    from stages.check import problems
    from stages.core.errors import StageError
    from stages.core.params import read_params as read

    try:
        found = problems(read(root / "params.yaml"), root)
    except StageError as error:
        return Finding("params", "problem", str(error), "`retune use` lists the presets")
    if found:
        return Finding("params", "problem", "; ".join(found), "mend params.yaml, or `retune use PRESET`")
    return Finding("params", "ok", "params.yaml is right")
