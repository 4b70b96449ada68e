"""DVC's cache: every object that dvc.lock names, hashed again, and the entries of the run cache, whose names are hashes of what they say."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from retune.verify.digests import hash_files
from retune.verify.kinds import Difference, restore
from retune.verify.locked import LockedPath, list_outs
from retune.verify.seen import Seen
from retune.yaml_files import read_yaml
from stages.core.errors import StageError
from stages.dvc_lock.hashes import FOLDER, object_path
from stages.dvc_lock.run_cache import find_false_runs

SIZES = ("size", "nfiles")
"""What DVC writes beside a hash and leaves out of an entry's name."""


def list_objects(seen: Seen, out: LockedPath) -> dict[str, str]:
    """{path below the project: hash} of the objects that an out is made of, its listing first; the rest only where the listing is whole."""
    found = {out.path: out.md5}
    if out.md5.endswith(FOLDER):
        found |= seen.known_listing(out) or {}
    return found


def list_kept(seen: Seen, uncached: set[str]) -> dict[str, tuple[str, str]]:
    """{hash: (stage, path)} of all objects that dvc.lock names and DVC keeps."""
    return {
        digest: (entry.name, path)
        for entry in seen.locked.values()
        for out in list_outs(entry)
        if out.path not in uncached
        for path, digest in list_objects(seen, out).items()
    }


def compare_cache(seen: Seen, uncached: set[str]) -> Iterator[Difference]:
    """Every object that dvc.lock names. Hard links of the project's files are read again: what lies there counts."""
    wanted = list_kept(seen, uncached)
    places = {digest: object_path(seen.store, digest) for digest in wanted}
    digests, broken = hash_files(
        (path for path in places.values() if path.is_file()), "hashing the cache", sha256=False
    )
    for digest, (stage, path) in wanted.items():
        place = places[digest]
        if place in broken:
            yield Difference(
                "unreadable",
                path,
                f"its object {place} in the cache: {broken[place]}",
                stage=stage,
                remedy="look at its rights, and at the disk",
            )
        elif place not in digests:
            yield Difference("cache_missing", path, f"the cache has no {digest}", stage=stage, remedy=restore(stage))
        elif digests[place].md5 != digest.removesuffix(FOLDER):
            says = f"its object {digest} in the cache has other bytes ({digests[place].size} of them)"
            yield Difference("cache_rotten", path, says, stage=stage, remedy=restore(stage))


def compare_run_cache(store: Path) -> Iterator[Difference]:
    """Every entry of the run cache, of this project and of others that share it: its folder and name are hashes of what it says."""
    for file in sorted((store / "runs").glob("*/*/*")):
        wrong = find_entry_problem(file)
        if wrong:
            path = f"runs/{file.relative_to(store / 'runs').as_posix()}"
            yield Difference("run_cache", path, wrong, remedy=f"`rm {file}`: DVC would hand out what it names")
    for run in find_false_runs(store):
        path = f"runs/{run.file.relative_to(store / 'runs').as_posix()}"
        for one in run.differences(store):
            yield Difference(
                "run_cache", path, one.says, one.field, one.stage, f"`rm {run.file}`: DVC would hand out what it names"
            )


def find_entry_problem(file: Path) -> str:
    """What is wrong with an entry; empty if nothing is."""
    try:
        entry = read_yaml(file)
        key = {**entry, "outs": [out["path"] for out in entry.get("outs", [])]}
        names = (digest_entry(key), digest_entry(entry))
    except (StageError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return "is cut off, or no entry"
    except OSError as error:
        return error.strerror or "cannot be read"
    if names[0] != file.parent.name:
        return "says another command, dep or param than its folder's name is the hash of"
    return "" if names[1] == file.name else "names other outputs than its own name is the hash of"


def digest_entry(entry: Mapping[str, Any]) -> str:
    """DVC's name of an entry: the sha256 of its JSON with sorted keys, without sizes (`dvc.utils.dict_sha256`)."""
    return hashlib.sha256(json.dumps(drop_sizes(entry), sort_keys=True).encode()).hexdigest()


def drop_sizes(value: Any) -> Any:  # noqa: ANN401 - whatever YAML holds
    """The value without what DVC leaves out."""
    if isinstance(value, Mapping):
        return {key: drop_sizes(one) for key, one in value.items() if key not in SIZES}
    return [drop_sizes(one) for one in value] if isinstance(value, list) else value
