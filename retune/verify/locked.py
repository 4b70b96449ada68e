"""dvc.lock as `verify` and `origin` read it: text that somebody may have edited, so every entry is looked at before it is believed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retune.dvc_files import FOLDER
from stages.core.errors import StageError

HEX = frozenset("0123456789abcdef")
MD5 = 32
"""Digits of an md5."""


@dataclass(frozen=True)
class LockedPath:
    """A dep or an out of a stage, as dvc.lock has it."""

    stage: str
    path: str
    md5: str
    """As DVC writes it: of a folder, with `.dir`."""
    size: int | None = None
    nfiles: int | None = None


@dataclass(frozen=True)
class LockedStage:
    """A stage's entry."""

    name: str
    cmd: str
    deps: list[LockedPath]
    outs: list[LockedPath]
    params: Mapping[str, Any]
    """{section: values} of params.yaml."""
    problems: list[str] = field(default_factory=list)
    """What of it is not as DVC writes it."""


def read_locked(lock: Path) -> dict[str, LockedStage]:
    """{stage: its entry}. Raises StageError for a file that is missing, cut off or no dvc.lock."""
    if not lock.is_file():
        raise StageError(f"{lock.name} is not there: nothing has run here")
    try:
        return parse_locked(lock.read_text(encoding="utf-8"), lock.name)
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(f"{lock.name} cannot be read") from error


def parse_locked(text: str, name: str) -> dict[str, LockedStage]:
    """The same of a dvc.lock's text; `name`: what it is called in an error."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        found = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, AttributeError, RecursionError, TypeError) as error:
        raise StageError(
            f"{name} is cut off or no YAML; `git checkout -- {name}` brings back what was committed"
        ) from error
    stages = found.get("stages") if isinstance(found, dict) else None
    if not isinstance(stages, dict) or not all(isinstance(entry, dict) for entry in stages.values()):
        raise StageError(f"{name} has no `stages` as DVC writes them")
    return {str(stage): read_entry(str(stage), entry) for stage, entry in stages.items()}


def read_entry(name: str, entry: Mapping[str, Any]) -> LockedStage:
    """A stage's entry; what is wrong with it is said in it."""
    problems: list[str] = []
    paths: dict[str, list[LockedPath]] = {}
    for kind in ("deps", "outs"):
        listed = entry.get(kind) or []
        paths[kind] = list(read_paths(name, kind, listed if isinstance(listed, list) else [listed], problems))
    params = entry.get("params") or {}
    values = params.get("params.yaml", {}) if isinstance(params, dict) else None
    if not isinstance(values, dict):
        problems.append("its params are no mapping")
        values = {}
    problems += [
        f"`{key}` is no key that this Retune knows" for key in entry if key not in ("cmd", "deps", "params", "outs")
    ]
    return LockedStage(name, str(entry.get("cmd", "")), paths["deps"], paths["outs"], values, problems)


def read_paths(stage: str, kind: str, listed: list[Any], problems: list[str]) -> Iterator[LockedPath]:
    """The deps or outs of an entry that are as DVC writes them."""
    for one in listed:
        if not isinstance(one, dict) or not isinstance(one.get("path"), str):
            problems.append(f"one of its {kind} has no path")
            continue
        digest, path = one.get("md5"), one["path"]
        plain = digest.removesuffix(FOLDER) if isinstance(digest, str) else ""
        if len(plain) != MD5 or not set(plain) <= HEX or one.get("hash", "md5") != "md5":
            problems.append(f"{path} among its {kind} has no md5")
            continue
        if Path(path).is_absolute() or ".." in Path(path).parts:
            problems.append(f"{path} among its {kind} lies outside of the project")
            continue
        size, count = one.get("size"), one.get("nfiles")
        yield LockedPath(
            stage, path, str(digest), size if isinstance(size, int) else None, count if isinstance(count, int) else None
        )
