"""Execution records as the runner writes them, of runs that were never carried out."""

import time
from pathlib import Path
from typing import Any

from stages.core.execution import begin_execution, write_execution
from stages.core.files import read_json, write_json


def put_execution(root: Path, stage: str, **changed: Any) -> Path:
    """Write data/execution/STAGE.json below `root`, bound to the stage's record if that is there, with some fields changed; its path."""
    record = root / "data/records" / f"{stage}.json"
    path = root / "data/execution" / f"{stage}.json"
    begun = begin_execution(str(path), time.time())
    write_execution(begun, stage, None, None, (), str(record) if record.is_file() else "", {})
    found = read_json(path)
    if found["record"]:
        found["record"]["path"] = record.relative_to(root).as_posix()
    write_json(path, found | changed)
    return path
