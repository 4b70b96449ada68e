"""DVC's remote: every object that dvc.lock names, read as it lies there and hashed; nothing of it is written here."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from retune.verify.cache import list_kept
from retune.verify.digests import PIECE
from retune.verify.kinds import Difference
from retune.verify.seen import Seen
from stages.core.errors import StageError
from stages.dvc_lock.hashes import FOLDER
from stages.show.progress import progress

READERS = 4
"""Objects that are read at a time: a remote answers slowly."""


def open_remote(root: Path) -> Any:  # noqa: ANN401 - DVC ships no types
    """The default remote's store of objects. Raises StageError where there is none, or it is none of objects."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            return repo.cloud.get_remote_odb(None, "verify")
    except (DvcException, ImportError, ValueError, OSError) as error:
        raise StageError(f"the remote cannot be asked: {error}") from error


def compare_remote(seen: Seen, uncached: set[str], store: Any) -> Iterator[Difference]:  # noqa: ANN401 - as above
    """Every object that dvc.lock names. Raises StageError where the remote does not answer."""
    wanted = list_kept(seen, uncached)
    with ThreadPoolExecutor(READERS) as pool, progress("hashing the remote", len(wanted), "objects") as advance:
        for (digest, (stage, path)), found in zip(
            wanted.items(), pool.map(partial(hash_object, store), wanted), strict=True
        ):
            advance(1)
            remedy = f"`dvc push {stage}` brings it there once more, if the cache's is whole (`retune verify --deep`)"
            if found is None:
                yield Difference("remote_missing", path, f"the remote has no {digest}", stage=stage, remedy=remedy)
            elif found != digest.removesuffix(FOLDER):
                says = f"its object {digest} on the remote has other bytes"
                gone = f"remove {store.oid_to_path(digest)} there, then {remedy}"
                yield Difference("remote_rotten", path, says, stage=stage, remedy=gone)


def hash_object(store: Any, digest: str) -> str | None:  # noqa: ANN401 - as above
    """The md5 of an object's bytes; None if it is not there. Raises StageError if the remote does not answer."""
    found = hashlib.md5(usedforsecurity=False)
    try:
        with store.fs.open(store.oid_to_path(digest), "rb") as file:
            while piece := file.read(PIECE):
                found.update(piece)
    except FileNotFoundError:
        return None
    except Exception as error:  # each kind of remote has errors of its own
        raise StageError(f"the remote did not give {digest}: {error}") from error
    return found.hexdigest()
