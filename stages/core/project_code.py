"""The project's code as a stage runs it: hashed for its record, and kept, so that a later edit can be compared with what ran."""

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from stages.core.files import files_below, scratch, sha256_file

KEPT = "code"
"""Of the scratch folder: every version of a file of stages/ that a stage ran beside, named by its md5, which is how DVC names it."""
LISTINGS = "listings"
"""Of that: {path: md5} of all files of stages/ as a stage found them, one JSON file a version."""


def imported_code() -> list[str]:
    """The paths of the project's own modules that this process has imported, sorted; what only shows is in no key."""
    root = Path.cwd()
    own = f"{root / 'stages'}{os.sep}"
    files = {file for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))}
    paths = {Path(file).resolve() for file in files if file.startswith(own)}
    return sorted(path.relative_to(root.resolve()).as_posix() for path in paths if path.parent.name != "show")


def project_code() -> dict[str, str]:
    """{path: sha256} of the project's own modules that this process has imported."""
    return {path: sha256_file(Path(path)) for path in imported_code()}


def keep_code() -> dict[str, str]:
    """Keep stages/ as it is now in `.retune/code/`, committed or not: each file by its md5, and the listing of all. Gives {path: sha256}.

    Of a package in a stage's deps dvc.lock has one hash, that of the listing of its files. A stage does not know its deps; the
    listing of all of stages/ holds that of every package.
    """
    digests, found = {}, {}
    for path in files_below(Path("stages")):
        try:
            content = path.read_bytes()
        except OSError:  # an editor's file, gone again; what cannot be read was not run
            continue
        digests[path.as_posix()] = digest = md5(content)
        found[path.as_posix()] = hashlib.sha256(content).hexdigest()
        keep(scratch() / KEPT / f"{digest}{path.suffix}", content)
    keep_listing(scratch() / KEPT, digests)
    return found


def keep_listing(kept: Path, digests: Mapping[str, str]) -> None:
    """Keep {path: md5} of files below the folder with the kept code."""
    listing = json.dumps(dict(digests), indent=0).encode()
    keep(kept / LISTINGS / f"{md5(listing)}.json", listing)


def keep(path: Path, content: bytes) -> None:
    """Write a file that is named by its content, unless it is there; by a rename, so that what is there is whole."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
        temporary.write_bytes(content)
        temporary.replace(path)


def md5(content: bytes) -> str:
    """DVC's digest of a file: a name for bytes, no proof against malice."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
