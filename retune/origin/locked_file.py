"""The link from a file to dvc.lock's hash of the output that it lies in."""

from pathlib import Path

from retune.dvc_files import find_cache
from retune.origin.links import FoundRecord, Link, check_locked_file
from retune.verify.digests import FileDigests, hash_files
from retune.verify.locked import LockedPath, list_outs
from retune.verify.seen import Seen
from stages.dvc_lock.hashes import FOLDER, digest_listing, read_ignored
from stages.dvc_lock.lock import LockedStage
from stages.dvc_lock.records import parse_record


def check_locked_output(lock: Path, entry: LockedStage, found: FoundRecord, digests: FileDigests) -> Link:
    """The file's md5 against dvc.lock's hash of its output: by the listing in DVC's cache, else by the files of the output that lie there."""
    out = next((one for one in list_outs(entry) if one.path == found.output), None)
    root = lock.resolve().parent
    listing = {} if out is None else read_known_listing(root, entry, out)
    if out is None or listing is not None:
        return check_locked_file(found, digests, listing)
    return check_folder(root, out, found, digests)


def read_known_listing(root: Path, entry: LockedStage, out: LockedPath) -> dict[str, str] | None:
    """{path below the project: md5} of what dvc.lock's hash is of, by the lock itself (a file) or the cache; None where neither has it."""
    if not out.md5.endswith(FOLDER):
        return {out.path: out.md5}
    if not (root / ".dvc").is_dir():
        return None
    return Seen(root, find_cache(root), {entry.name: entry}, {}, {}, frozenset()).known_listing(out)


def check_folder(root: Path, out: LockedPath, found: FoundRecord, digests: FileDigests) -> Link:
    """The same by the files that the record names and that lie in the project: are they what dvc.lock's hash is of?

    If they are the record's, and the hash is of others, dvc.lock contradicts the record. If some are not there, or others, nothing is known.
    """
    recorded = read_recorded(found)
    places = {name: root / name for name in recorded}
    hashed, _ = hash_files((path for path in places.values() if path.is_file()), f"hashing {out.path}")
    there = {name: hashed[path] for name, path in places.items() if path in hashed}
    ignored = read_ignored(root)
    listing = {name: one.md5 for name, one in there.items() if not ignored.match_file(name)}
    if len(there) == len(recorded) and digest_listing(out.path, listing) == out.md5:
        return check_locked_file(found, digests, listing)
    if {name: one.sha256 for name, one in there.items()} == recorded:
        says = f"dvc.lock's hash of {out.path} is not that of the files that the record names, which lie here"
        return Link("locked_file", "contradicted", says)
    return check_locked_file(found, digests, None)


def read_recorded(found: FoundRecord) -> dict[str, str]:
    """{path below the project: sha256} of all files of the output, by the record."""
    record = parse_record(found.path.name, found.content)
    files = next(one["files"] for one in record["outputs"].values() if one["path"] == found.output)
    return {f"{found.output}/{name}": sha256 for name, sha256 in files.items()}
