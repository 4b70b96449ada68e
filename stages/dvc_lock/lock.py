"""dvc.lock as it is written: of each stage the command, the params and the hashes that DVC noted down when the stage had ended."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.core.errors import StageError
from stages.core.value_differences import show_text, show_value

LOCK = "dvc.lock"
SCHEMA = "2.0"
"""The form of dvc.lock that DVC 3 writes."""
FIELDS = {"cmd", "deps", "params", "outs"}
PARAMS = "params.yaml"


@dataclass(frozen=True)
class LockedStage:
    """A stage as dvc.lock (or an entry of DVC's run cache) has it."""

    name: str
    cmd: str
    params: Mapping[str, Any]
    """{section of params.yaml: its values}."""
    deps: Mapping[str, str]
    """{path: DVC's hash: md5, of a folder with `.dir` at its end}."""
    outs: Mapping[str, str]
    """The same of what the stage wrote; of an output that DVC does not keep, too."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """{path of a dep or an output: bytes}, where they are said."""

    def owns(self, path: str) -> bool:
        """Whether a path is an output of this stage, or lies in one."""
        return any(path == out or path.startswith(f"{out}/") for out in self.outs)


def read_locked_stages(root: Path) -> dict[str, LockedStage]:
    """{stage: what dvc.lock says of it}, in its order.

    Raises StageError, in words, if the file is missing, cut off, empty, in the middle of a merge, of another version or not as DVC writes it.
    """
    path = root / LOCK
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise StageError(f"{LOCK} is missing: nothing has run here under DVC, or it was removed") from error
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(f"{LOCK} cannot be read: {error}") from error
    if any(line.startswith(("<<<<<<<", ">>>>>>>")) for line in text.splitlines()):
        raise StageError(
            f"{LOCK} is in the middle of a merge (it holds <<<<<<< or >>>>>>>): take one side whole "
            f"(`git checkout --ours {LOCK}`, or --theirs), then `dvc repro` says what of it is still so"
        )
    return parse_lock(load_yaml(LOCK, text))


def load_yaml(name: str, text: str) -> object:
    """A YAML text's value, read as DVC reads it. Raises StageError."""
    try:
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, TypeError, RecursionError) as error:
        said = show_text(str(getattr(error, "problem", None) or error))
        raise StageError(f"{name} is no whole YAML file ({said})") from error


def parse_lock(values: object) -> dict[str, LockedStage]:
    """The same of the file's value."""
    if values is None:
        raise StageError(f"{LOCK} is empty")
    if not isinstance(values, dict):
        raise StageError(f"{LOCK} must be a mapping, as DVC writes it")
    if str(values.get("schema")) != SCHEMA:
        raise StageError(
            f"{LOCK} is of schema {show_value(values.get('schema'))}, and what is known here is {show_value(SCHEMA)}: "
            "another version of DVC wrote it"
        )
    unknown = values.keys() - {"schema", "stages", "datasets"}
    if unknown:
        raise StageError(f"{LOCK}: unknown {show_names(unknown)}: DVC 3 writes none such")
    stages = values.get("stages") or {}
    if not isinstance(stages, dict):
        raise StageError(f"{LOCK}: `stages` must be a mapping")
    return {str(name): parse_stage(LOCK, str(name), entry) for name, entry in stages.items()}


def parse_stage(where: str, name: str, entry: object) -> LockedStage:
    """One stage of dvc.lock, or of another file (`where`) in its form. Raises StageError if it is not in that form."""
    place = f"{where}: {show_text(name)}"
    if not isinstance(entry, dict):
        raise StageError(f"{place} must be a mapping of cmd, deps, params and outs")
    unknown = entry.keys() - FIELDS
    if unknown:
        raise StageError(f"{place}: unknown {show_names(unknown)}: DVC 3 writes none such")
    cmd = entry.get("cmd")
    if isinstance(cmd, list):
        cmd = "\n".join(map(str, cmd))
    if not isinstance(cmd, str):
        raise StageError(f"{place}: `cmd` is missing")
    files = entry.get("params") or {}
    if not isinstance(files, dict) or not all(isinstance(values, dict) for values in files.values()):
        raise StageError(f"{place}: `params` must be a mapping of files and their sections")
    deps, dep_sizes = parse_hashes(place, "deps", entry.get("deps"))
    outs, out_sizes = parse_hashes(place, "outs", entry.get("outs"))
    return LockedStage(name, cmd, files.get(PARAMS, {}), deps, outs, dep_sizes | out_sizes)


def parse_hashes(place: str, key: str, items: object) -> tuple[dict[str, str], dict[str, int]]:
    """({path: hash}, {path: bytes}) of the deps or outs of a stage. Raises StageError."""
    if items is None:
        return {}, {}
    if not isinstance(items, list) or not all(isinstance(item, dict) and "path" in item for item in items):
        raise StageError(f"{place}: `{key}` must be a list of paths and their hashes")
    sizes = {str(item["path"]): item["size"] for item in items if isinstance(item.get("size"), int)}
    return {str(item["path"]): str(item.get("md5") or "") for item in items}, sizes


def show_names(names: Iterable[object]) -> str:
    """Names out of a file, in a message."""
    return ", ".join(sorted(f"`{show_text(str(name))}`" for name in names))
