"""The model hub, for both fetching stages: what an id and a revision look like, listing, verified download, errors that say what to do.

The library keeps its own cache (HF_HOME), resumes a transfer that breaks and checks sizes; over plain HTTP it checks no hash, so
every file, cached or new, is hashed here against the revision's own listing. The endpoint is HF_ENDPOINT, the token HF_TOKEN;
no code of a repository is ever run.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator

from stages.core.errors import StageError

Kind = Literal["model", "dataset"]
HubProblem = Literal["gated", "no_revision", "no_repository", "offline", "status", "no_hub", "no_connection"]
"""What an error of the hub's library comes to; `status`: any other answer of the hub that is an error."""

REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
LOCAL_INSTEAD = {
    "dataset": "or put a copy into data/custom and name it data/custom/FILE in fetch_data.sources",
    "model": 'or put a copy into data/custom_base and set fetch_model.source to "custom"',
}


def check_commit(revision: str) -> str:
    """The revision, if it is a commit's hash. Raises ValueError (pydantic's word for a wrong value)."""
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ValueError("must be a commit (40 lower-case hex characters), since a branch or tag may move")
    return revision


Revision = Annotated[str, AfterValidator(check_commit)]


@dataclass(frozen=True)
class HubFile:
    """A file of a revision, as the hub lists it."""

    path: str
    size: int
    blob_id: str
    """git's hash of the file (for a large one, of its pointer)."""
    sha256: str | None
    """Of a large file; None for one that lies in git itself."""


def check_revision(source: str, revision: str | None, *, local: bool) -> None:
    """Raise ValueError unless a hub id comes with a revision and a local source without one."""
    if local and revision is not None:
        raise ValueError(f"revision must be null for {source}, which is local")
    if local:
        return
    if not REPO_ID.fullmatch(source) or ".." in source:
        raise ValueError("source is neither a local one nor a hub id (OWNER/NAME)")
    if revision is None:
        raise ValueError(
            f"revision must name a commit of {source} (40 hex characters): a branch may move, and then nobody knows what was used"
        )


def list_files(repo_id: str, revision: str, kind: Kind) -> dict[str, HubFile]:
    """{path: file} of a revision. Raises StageError that says what to do."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    with explain_hub_errors(partial(describe_fetch_problem, repo_id=repo_id, revision=revision, kind=kind)):
        tree = HfApi(token=read_token()).list_repo_tree(repo_id, recursive=True, revision=revision, repo_type=kind)
        return {
            entry.path: HubFile(entry.path, entry.size, entry.blob_id, entry.lfs.sha256 if entry.lfs else None)
            for entry in tree
            if isinstance(entry, RepoFile)
        }


def download(repo_id: str, revision: str, kind: Kind, file: HubFile) -> Path:
    """The file's path in the library's cache, its content proven. Raises StageError; what failed the proof is taken out of the cache."""
    from huggingface_hub import hf_hub_download

    with explain_hub_errors(partial(describe_fetch_problem, repo_id=repo_id, revision=revision, kind=kind)):
        path = Path(hf_hub_download(repo_id, file.path, repo_type=kind, revision=revision, token=read_token()))
    if not is_proven(path, file):
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise StageError(
            f"{file.path} of {repo_id} is not what the hub's listing of revision {revision} says (size or hash differ). "
            "The copy was thrown away; run again to fetch it anew."
        )
    return path


def read_cached_origin(path: Path) -> tuple[str, str] | None:
    """(OWNER/NAME, commit) of a file in the library's cache, by where it lies: models--OWNER--NAME/snapshots/COMMIT; None elsewhere."""
    found = re.search(r"/(?:models|datasets)--([^/]+)/snapshots/([0-9a-f]{40})/", path.as_posix())
    return (found.group(1).replace("--", "/", 1), found.group(2)) if found else None


def is_proven(path: Path, file: HubFile) -> bool:
    """Whether the bytes are those that the listing names: by sha256 for a large file, by git's own hash for a small one."""
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as content:
        while chunk := content.read(2**20):
            digest.update(chunk)
    return digest.hexdigest() == (file.sha256 or file.blob_id)


def read_token() -> str | Literal[False]:
    """The access token: from the environment alone, so that it is in no file of the project."""
    return os.environ.get("HF_TOKEN") or False


def describe_fetch_problem(problem: HubProblem, detail: int | str, repo_id: str, revision: str, kind: Kind) -> str:
    """What to do where a file or a listing cannot be fetched, as `explain_hub_errors` asks for it."""
    from huggingface_hub import constants

    hub, page = constants.ENDPOINT, f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repo_id}"
    instead = LOCAL_INSTEAD[kind]
    token = "one is set" if read_token() else "none is set"
    refused = "check HF_TOKEN" if detail in (401, 403) else "try again later"
    return {
        "gated": f"{repo_id} wants its licence accepted: open {page}, accept it, and set HF_TOKEN to a token of that account; {instead}",
        "no_revision": f"{repo_id} has no revision {revision}: take the commit's 40 hex characters from {page}/commits/main",
        "no_repository": f"{repo_id} is not on {hub} as a {kind}, or is private: check the id; for a private one set HF_TOKEN ({token}); {instead}",
        "offline": f"{repo_id} cannot be fetched while HF_HUB_OFFLINE is set: unset it, {instead}",
        "status": f"{hub} answered {detail} for {repo_id}: {refused}, {instead}",
        "no_hub": f"{hub} did not answer as a hub does: check HF_ENDPOINT, {instead}",
        "no_connection": f"{repo_id} could not be fetched from {hub} ({detail}): no connection, or cut off. Check the network (and HF_ENDPOINT) "
        f"and run again, whole files that have come are kept; {instead}",
    }[problem]


@contextmanager
def explain_hub_errors(describe: Callable[[HubProblem, int | str], str]) -> Iterator[None]:
    """Turn the hub library's errors into StageErrors. None of them quotes a header or a token.

    Args:
        describe: what to say of a problem, given its detail: the status of an answer, for the others the name of the library's error.
    """
    import httpx
    from huggingface_hub import errors

    known: tuple[tuple[HubProblem, tuple[type[Exception], ...]], ...] = (
        ("gated", (errors.GatedRepoError,)),
        ("no_revision", (errors.RevisionNotFoundError,)),
        ("no_repository", (errors.RepositoryNotFoundError,)),
        ("offline", (errors.OfflineModeIsEnabled,)),
        ("status", (errors.HfHubHTTPError,)),
        ("no_hub", (ValueError, KeyError)),
        ("no_connection", (httpx.HTTPError, OSError, RuntimeError, errors.XetDownloadError)),
    )
    try:
        yield
    except tuple(kind for _, kinds in known for kind in kinds) as error:
        problem = next(problem for problem, kinds in known if isinstance(error, kinds))
        detail = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else type(error).__name__
        raise StageError(describe(problem, detail)) from error
