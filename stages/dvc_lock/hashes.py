"""DVC's hashes: md5 of a file, and of a folder the md5 of the JSON list of its files."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pathspec

from stages.core.project_code import md5

FOLDER = ".dir"
"""How the hash of a folder's listing ends."""


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


def digest_path(root: Path, path: str) -> str:
    """DVC's hash of a file or folder as it is now; empty where there is none."""
    place = root / path
    if place.is_dir():
        return digest_listing(path, read_listing(root, path))
    return digest_file(place) if place.is_file() else ""


def object_path(store: Path, digest: str) -> Path:
    """Where DVC's cache, the folder `store`, has an object."""
    return store / "files" / "md5" / digest[:2] / digest[2:]
