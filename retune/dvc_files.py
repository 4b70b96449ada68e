"""DVC's own files as they are written: dvc.lock, dvc.yaml, the cache, and the listing that a folder's hash is of."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pathspec

from retune.project import give_up, run_dvc
from stages.core.project_code import md5

FOLDER = ".dir"
"""How the hash of a folder's listing ends."""


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's mapping, read as DVC reads it."""
    from ruamel.yaml import YAML

    values: dict[str, Any] = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8")) or {}
    return values


def read_lock(root: Path) -> dict[str, dict[str, Any]]:
    """{stage: its entry in dvc.lock}; empty without the file."""
    lock = root / "dvc.lock"
    found: dict[str, dict[str, Any]] = read_yaml(lock).get("stages", {}) if lock.is_file() else {}
    return found


def read_owners(declared: Mapping[str, Any]) -> dict[str, str]:
    """{path: the stage that writes it}."""
    found: dict[str, str] = {}
    for stage, entry in declared.items():
        for out in [*entry.get("outs", []), *entry.get("metrics", []), *entry.get("plots", [])]:
            found |= dict.fromkeys(out if isinstance(out, dict) else [out], stage)
    return found


def digest_file(path: Path) -> str:
    """DVC's hash of a file, however large: a name for bytes, no proof against malice."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def read_listing(root: Path, path: str) -> dict[str, str]:
    """{path below the project: md5} of the files in a folder, as DVC counts them: without what `.dvcignore` names."""
    ignored = read_ignored(root)
    files = (file for file in (root / path).rglob("*") if file.is_file())
    named = {file.relative_to(root).as_posix(): file for file in files}
    return {name: digest_file(file) for name, file in sorted(named.items()) if not ignored.match_file(name)}


def read_ignored(root: Path) -> pathspec.GitIgnoreSpec:
    """What the project's `.dvcignore` names."""
    file = root / ".dvcignore"
    return pathspec.GitIgnoreSpec.from_lines(file.read_text(encoding="utf-8").splitlines() if file.is_file() else [])


def digest_listing(path: str, files: Mapping[str, str]) -> str:
    """DVC's hash of a folder, from {path below the project: md5} of its files: the md5 of a JSON list, sorted by the path in the folder."""
    entries = [{"md5": digest, "relpath": name.removeprefix(f"{path}/")} for name, digest in files.items()]
    entries.sort(key=lambda entry: entry["relpath"])
    return md5(json.dumps(entries).encode()) + FOLDER


def compare_listings(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    """{file: `changed`, `new` or `gone`} of what differs in two folders."""
    return {
        name: "gone" if name not in new else "new" if name not in old else "changed"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    }


def read_cached_listing(store: Path, path: str, digest: str) -> dict[str, str] | None:
    """{path below the project: md5} of a folder that DVC keeps; None if the cache has not its listing, whole."""
    listing = object_path(store, digest)
    if not digest.endswith(FOLDER) or not listing.is_file() or digest_file(listing) != digest.removesuffix(FOLDER):
        return None
    return {f"{path}/{entry['relpath']}": entry["md5"] for entry in json.loads(listing.read_text(encoding="utf-8"))}


def find_cache(root: Path) -> Path:
    """The folder of DVC's cache. Ends the program if DVC does not say."""
    result = run_dvc(root, "cache", "dir")
    if result.returncode != 0:
        give_up(f"dvc cache dir: {result.stderr.strip()}")
    return root / result.stdout.strip()


def object_path(store: Path, digest: str) -> Path:
    """Where the cache has an object."""
    return store / "files" / "md5" / digest[:2] / digest[2:]
