"""DVC's own files as they are written: dvc.lock, dvc.yaml, the cache, and the listing that it keeps of a folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retune.project import give_up, run_dvc
from retune.yaml_files import read_yaml
from stages.dvc_lock.hashes import FOLDER, digest_file, object_path


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
