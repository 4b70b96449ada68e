"""The checkout that a stage runs in: the commit and the files that differ from it, as git says. One question, asked beside the work."""

import contextlib
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from typing_extensions import TypedDict

PATIENCE = 0.5
"""Seconds that a stage waits at its end for a git that has not answered by then."""
NAMES = 200
"""Names of files that are kept; more are counted."""


class SourceState(TypedDict):
    """The checkout when the stage began."""

    commit: str | None
    dirty: list[str] | None
    """Files that differ from the commit, or that git does not know and does not ignore: the first 200, by name. None: not known."""
    dirty_count: int | None
    why: str
    """Why it is not known; empty where it is."""


@dataclass(frozen=True)
class GitQuery:
    """A git that was asked, and where it writes its answer."""

    process: "subprocess.Popen[bytes] | None"
    answer: IO[bytes] | None
    why: str

    def read(self) -> SourceState:
        """The answer; a git that hangs is ended, and nothing is known."""
        if self.process is None or self.answer is None:
            return unknown(self.why)
        with self.answer:
            try:
                status = self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                return unknown("git gave no answer in time")
            self.answer.seek(0)
            return parse_status(self.answer.read()) if status == 0 else unknown(f"git ended with {status}")


def start_git_query(root: Path) -> GitQuery:
    """Ask git for the state of a checkout, and do not wait. A folder that is not the top of a checkout is not asked about."""
    if not (root / ".git").exists():
        return GitQuery(None, None, "the project's folder is not the top of a git checkout")
    # into a file: a full pipe would stop git
    answer = tempfile.TemporaryFile()  # noqa: SIM115 - it is read when the stage ends
    command = [
        "git",
        "-c",
        "core.fsmonitor=false",
        "status",
        "--porcelain=v2",
        "--branch",
        "--untracked-files=normal",
        "-z",
    ]
    try:
        process = subprocess.Popen(
            command,
            cwd=root,
            # no lock on the index: the user's own git must not find one
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            stdout=answer,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        answer.close()
        return GitQuery(None, None, "git is not here")
    return GitQuery(process, answer, "")


def parse_status(said: bytes) -> SourceState:
    """The state from what `git status --porcelain=v2 --branch -z` writes."""
    fields = iter(said.decode("utf-8", "backslashreplace").split("\0"))
    commit, dirty = None, []
    for one in fields:
        kind, _, rest = one.partition(" ")
        if kind == "#" and rest.startswith("branch.oid "):
            named = rest.removeprefix("branch.oid ")
            commit = None if named == "(initial)" else named
        elif kind == "1":
            dirty.append(rest.split(" ", 7)[7])
        elif kind == "2":
            dirty.append(rest.split(" ", 8)[8])
            with contextlib.suppress(StopIteration):
                next(fields)  # what it was called before
        elif kind == "u":
            dirty.append(rest.split(" ", 9)[9])
        elif kind == "?":
            dirty.append(rest)
    names = sorted(dirty)
    why = "" if commit else "nothing is committed yet"
    return SourceState(commit=commit, dirty=names[:NAMES], dirty_count=len(names), why=why)


def unknown(why: str) -> SourceState:
    """Nothing is known, and why."""
    return SourceState(commit=None, dirty=None, dirty_count=None, why=why)
