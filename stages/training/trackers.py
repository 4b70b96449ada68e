"""Other people's tools that show a training while it runs. They only show: nothing they do is in a result."""

import importlib.util
import os
from pathlib import Path
from typing import Any

from stages.core.errors import StageError

FOLDERS = {
    "tensorboard": "TENSORBOARD_LOGGING_DIR",
    "wandb": "WANDB_DIR",
    "mlflow": "MLFLOW_TRACKING_URI",
    "trackio": "TRACKIO_DIR",
}
"""Where each one writes, unless its variable is set already."""


def prepare_tracker(name: str, folder: Path) -> list[str]:
    """What the trainer's `report_to` takes. Raises StageError if the package is not installed.

    Args:
        name: as `runtime.report_to`.
        folder: in scratch, for what the tool writes.
    """
    if name == "none":
        return []
    if importlib.util.find_spec(name) is None:
        raise StageError(
            f"runtime.report_to is {name}, which is not installed: `uv pip install {name}`, or set it to none"
        )
    if name in FOLDERS:
        where = folder / name
        where.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault(FOLDERS[name], str(where.absolute()))
    return [] if name == "dvclive" else [name]


def live_callback(folder: Path) -> Any:  # noqa: ANN401 - transformers' callback
    """The trainer's callback for DVCLive; its own would make a DVC experiment of every run, inside of `dvc repro`."""
    from dvclive import Live  # type: ignore[import-not-found, unused-ignore]
    from transformers.integrations import DVCLiveCallback

    return DVCLiveCallback(live=Live(dir=str(folder / "dvclive"), save_dvc_exp=False, dvcyaml=None))
