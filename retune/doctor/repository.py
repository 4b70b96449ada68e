"""How the repository stands: DVC and its locks, git."""

import fcntl
import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from retune.doctor.finding import Finding
from retune.project import run_dvc


def check_dvc(root: Path) -> Iterable[Finding]:
    """Whether DVC is set up, with a cache that a write to data/ cannot reach."""
    if not (root / ".dvc").is_dir():
        yield Finding("DVC", "problem", "this is no DVC repository", "`dvc init`")
        return
    result = run_dvc(root, "config", "cache.type")
    kinds = result.stdout.strip() if result.returncode == 0 else ""
    linked = [kind for kind in kinds.strip('"').split(",") if kind.strip() in {"hardlink", "symlink"}]
    if linked:
        todo = "`dvc config cache.type reflink,copy`, then `dvc checkout --relink`"
        yield Finding(
            "DVC cache", "problem", f"type {kinds}: a write to a file of data/ would change the cache, unseen", todo
        )
    else:
        yield Finding("DVC cache", "ok", f"type {kinds or 'reflink,copy (the default)'}")


def check_locks(folder: Path) -> Iterable[Finding]:
    """Locks that would stop the next run: DVC gives up or waits for ever, and does not say how to go on."""
    found = [*check_path_locks(folder / "rwlock"), *check_repository_lock(folder / "lock")]
    yield from found or [Finding("DVC locks", "ok", "free")]


def check_path_locks(path: Path) -> Iterable[Finding]:
    """The lock of paths, a JSON file that DVC rewrites: it is cut off if that is killed."""
    subject, remove = "DVC locks", "if no dvc runs here, remove it: `rm .dvc/tmp/rwlock`"
    if not path.is_file():
        return
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        holders = [content.get("write", {}).values(), *content.get("read", {}).values()]
        owners = {int(owner["pid"]): str(owner["cmd"]) for group in holders for owner in group}
    except (ValueError, TypeError, KeyError, AttributeError):
        yield Finding(
            subject,
            "problem",
            f".dvc/tmp/rwlock is {'empty' if not path.stat().st_size else 'cut off or damaged'}: every dvc command fails",
            remove,
        )
        return
    for number, command in sorted(owners.items()):
        running = process_command(number)
        if running is None:
            yield Finding(subject, "ok", f"held by process {number}, which is dead: dvc removes that by itself")
        elif "dvc" in running:
            yield Finding(
                subject,
                "warning",
                f"held by process {number}, running: {command}",
                "wait for it; `dvc --wait-for-lock` does",
            )
        else:
            yield Finding(
                subject, "problem", f"held by a dead dvc whose number {number} another program has now", remove
            )


def process_command(number: int) -> str | None:
    """The command line of a running process; None if there is no such process."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return "of another user"
    try:
        return Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return "dvc, perhaps"  # no /proc here: take it for what the lock says


def check_repository_lock(path: Path) -> Iterable[Finding]:
    """The lock of the whole repository: the system's own, so it ends with the process that holds it."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_UN)
        except OSError:
            holder = path.read_text(encoding="utf-8", errors="replace").strip() or "unknown"
            yield Finding(
                "DVC locks",
                "warning",
                f"a dvc command is running (process {holder})",
                "wait for it; `dvc --wait-for-lock` does",
            )


def check_git(root: Path) -> Iterable[Finding]:
    """Whether git can say which code made an output."""
    result = subprocess.run(
        ["git", "status", "--porcelain", "--branch"], cwd=root, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        yield Finding(
            "git",
            "warning",
            "this is no git repository",
            "`git init` and commit: then it can be said which code made a model",
        )
        return
    branch, *files = result.stdout.splitlines()
    lock = subprocess.run(
        ["git", "rev-parse", "--git-path", "index.lock"], cwd=root, capture_output=True, text=True, check=False
    )
    if (root / lock.stdout.strip()).is_file():
        yield Finding(
            "git",
            "warning",
            "index.lock is there: git runs, or was killed",
            f"if no git runs, remove it: `rm {lock.stdout.strip()}`",
        )
    if "No commits yet" in branch:
        yield Finding("git", "warning", "no commit yet", "commit: then it can be said which code made a model")
    else:
        yield Finding("git", "ok", f"{len(files)} uncommitted changes" if files else "all is committed")
