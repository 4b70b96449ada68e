"""A dvc.lock as DVC would write it for what lies in a folder, for tests that need no DVC."""

from collections.abc import Mapping
from pathlib import Path

from ruamel.yaml import YAML

from stages.dvc_lock.hashes import digest_file, digest_listing


def write_lock(root: Path, outs: Mapping[str, list[str]], **params: dict[str, object]) -> Path:
    """dvc.lock with stages of these outputs: {stage: paths}; `params`: {stage: its section}."""
    stages = {
        stage: {
            "cmd": f"python -m stages.{stage}",
            "deps": [{"path": f"stages/{stage}.py", "hash": "md5", "md5": "0" * 32}],
            "params": {"params.yaml": {stage: params[stage]}} if stage in params else {},
            "outs": [{"path": path, "hash": "md5", "md5": digest(root, path)} for path in paths],
        }
        for stage, paths in outs.items()
    }
    YAML().dump({"schema": "2.0", "stages": stages}, root / "dvc.lock")
    return root / "dvc.lock"


def digest(root: Path, path: str) -> str:
    """DVC's hash of a file or folder."""
    if not (root / path).is_dir():
        return digest_file(root / path)
    files = {
        file.relative_to(root).as_posix(): digest_file(file) for file in (root / path).rglob("*") if file.is_file()
    }
    return digest_listing(path, files)
