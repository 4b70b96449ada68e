"""What stood in a file or a folder when a stage ran, proven by the hash that dvc.lock has of it.

Stages keep the code that runs (stages/core/project_code.py), and git has what was committed or staged. Whatever is found there counts
only if it has the hash.
"""

import json
import subprocess
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from stages.core.project_code import KEPT, LISTINGS, keep, md5
from stages.dvc_lock.hashes import digest_listing, read_ignored


def find_past_text(root: Path, path: str, digest: str) -> bytes | None:
    """The text of a file that has this md5: from the stages' own copies, the index, or any commit of git that touched the file."""
    kept = root / ".retune" / KEPT
    # the name of a copy may be another hash
    copies = (copy.read_bytes() for copy in (*kept.glob(f"{digest}.*"), *sorted(kept.glob("*.py"))))
    return next((text for text in chain(copies, read_git_texts(root, path)) if md5(text) == digest), None)


def find_past_listing(root: Path, path: str, digest: str) -> dict[str, str] | None:
    """{path below the project: md5} of the files that a folder held when it had this hash, or None if nobody knows."""
    ignored = read_ignored(root)
    for listing in chain(read_kept_listings(root), read_git_listings(root, path)):
        files = {
            name: content
            for name, content in listing.items()
            if name.startswith(f"{path}/") and not ignored.match_file(name)
        }
        if digest_listing(path, files) == digest:
            return files
    return None


def keep_text(root: Path, path: str, text: bytes) -> None:
    """Keep what was accepted: the next edit is compared with it, and it need not be committed by then."""
    keep(root / ".retune" / KEPT / f"{md5(text)}{Path(path).suffix}", text)


def read_kept_listings(root: Path) -> Iterator[dict[str, str]]:
    """{path: md5} of all code, as stages have found it."""
    for file in sorted((root / ".retune" / KEPT / LISTINGS).glob("*.json")):
        yield json.loads(file.read_text(encoding="utf-8"))


def read_git_texts(root: Path, path: str) -> Iterator[bytes]:
    """The texts that git has of a file, the newest first."""
    for commit in list_commits(root, path):
        blob = subprocess.run(["git", "show", f"{commit}:./{path}"], cwd=root, capture_output=True, check=False)
        if blob.returncode == 0:
            yield blob.stdout


def read_git_listings(root: Path, path: str) -> Iterator[dict[str, str]]:
    """{path: md5} of the files that git has in a folder, the newest first."""
    digests: dict[str, str] = {}
    for commit in list_commits(root, path):
        command = ["ls-tree", "-r", "-z", commit, "--", path] if commit else ["ls-files", "-s", "-z", "--", path]
        listed = subprocess.run(["git", *command], cwd=root, capture_output=True, check=False).stdout
        blobs = {}
        for line in listed.decode("utf-8", "surrogateescape").split("\0")[:-1]:
            facts, _, name = line.partition("\t")
            blobs[name] = facts.split(" ")[2 if commit else 1]
        digests |= digest_blobs(root, set(blobs.values()) - digests.keys())
        if all(blob in digests for blob in blobs.values()):
            yield {name: digests[blob] for name, blob in blobs.items()}


def list_commits(root: Path, path: str) -> list[str]:
    """The index ("") and every commit that touched a path, the newest first; without git, nothing but the index, which is empty."""
    command = ["git", "log", "--all", "--format=%H", "--", path]
    return ["", *subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout.split()]


def digest_blobs(root: Path, blobs: Iterable[str]) -> dict[str, str]:
    """{git's name of a blob: md5 of its bytes}, of those that are here."""
    asked = "".join(f"{blob}\n" for blob in blobs).encode()
    said = subprocess.run(
        ["git", "cat-file", "--batch"], cwd=root, input=asked, capture_output=True, check=False
    ).stdout
    found, at = {}, 0
    while at < len(said):
        end = said.index(b"\n", at)
        name, *facts = said[at:end].decode().split(" ")
        at = end + 1
        if len(facts) == 2:  # noqa: PLR2004 - type and size; of one that is missing, a word
            size = int(facts[1])
            found[name] = md5(said[at : at + size])
            at += size + 1
    return found
