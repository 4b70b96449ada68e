"""The model hub, for both fetching stages: what an id and a revision look like, listing, verified download, errors that say what to do.

The library keeps its own cache (HF_HOME), resumes a transfer that breaks and checks sizes; over plain HTTP it checks no hash, so
every file, cached or new, is hashed here against the revision's own listing. The endpoint is HF_ENDPOINT, the token HF_TOKEN;
no code of a repository is ever run.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator

from stages.core.errors import StageError

Kind = Literal["model", "dataset"]
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

    with explained(repo_id, revision, kind):
        tree = HfApi(token=read_token()).list_repo_tree(repo_id, recursive=True, revision=revision, repo_type=kind)
        return {
            entry.path: HubFile(entry.path, entry.size, entry.blob_id, entry.lfs.sha256 if entry.lfs else None)
            for entry in tree
            if isinstance(entry, RepoFile)
        }


def download(repo_id: str, revision: str, kind: Kind, file: HubFile) -> Path:
    """The file's path in the library's cache, its content proven. Raises StageError; what failed the proof is taken out of the cache."""
    from huggingface_hub import hf_hub_download

    with explained(repo_id, revision, kind):
        path = Path(hf_hub_download(repo_id, file.path, repo_type=kind, revision=revision, token=read_token()))
    if not is_proven(path, file):
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise StageError(
            f"{file.path} of {repo_id} is not what the hub's listing of revision {revision} says (size or hash differ). "
            "The copy was thrown away; run again to fetch it anew."
        )
    return path


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


@contextmanager
def explained(repo_id: str, revision: str, kind: Kind) -> Iterator[None]:
    """Turn the hub library's errors into StageErrors that name what to do. None of them quotes a header or a token."""
    import httpx
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repo_id}"
    instead = LOCAL_INSTEAD[kind]
    try:
        yield
    except errors.GatedRepoError as error:
        raise StageError(
            f"{repo_id} wants its licence accepted: open {page}, accept it, and set HF_TOKEN to a token of that account; {instead}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise StageError(
            f"{repo_id} has no revision {revision}: take the commit's 40 hex characters from {page}/commits/main"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise StageError(
            f"{repo_id} is not on {constants.ENDPOINT} as a {kind}, or is private: check the id; for a private one set HF_TOKEN "
            f"({'one is set' if read_token() else 'none is set'}); {instead}"
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise StageError(f"{repo_id} cannot be fetched while HF_HUB_OFFLINE is set: unset it, {instead}") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        refused = "check HF_TOKEN" if status in (401, 403) else "try again later"
        raise StageError(f"{constants.ENDPOINT} answered {status} for {repo_id}: {refused}, {instead}") from error
    except (ValueError, KeyError) as error:
        raise StageError(f"{constants.ENDPOINT} did not answer as a hub does: check HF_ENDPOINT, {instead}") from error
    except (httpx.HTTPError, OSError, RuntimeError, errors.XetDownloadError) as error:
        raise StageError(
            f"{repo_id} could not be fetched from {constants.ENDPOINT} ({type(error).__name__}): no connection, or cut off. Check the "
            f"network (and HF_ENDPOINT) and run again, whole files that have come are kept; {instead}"
        ) from error
