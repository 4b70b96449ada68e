"""Which file of a dep or an output is another one than at the last run, where it can be told."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from retune.dvc_files import compare_listings, find_cache, read_cached_listing
from retune.past_files import find_past_listing, find_past_text
from retune.why.cause import Cause
from retune.why.code_place import locate_change
from stages.core.files import read_json, sha256_file
from stages.dvc_lock.hashes import digest_file, read_listing

MOST = 10
"""Files of one folder that are named."""
PINS = "stages/environment/"


def explain_code(root: Path, path: str, digest: str) -> list[Cause]:
    """What changed in code: a file, or the files of a package.

    Args:
        root: the project.
        path: the dep, which is there.
        digest: DVC's hash of it at the last run.
    """
    if not (root / path).is_dir():
        return list(explain_code_file(root, path, digest))
    old = find_past_listing(root, path, digest)
    if old is None:
        text = f"{path} changed; what it held is neither in .retune/code nor in git, so the file cannot be named"
        return [Cause("code", path, text)]
    found: list[Cause] = []
    for name, state in compare_listings(old, read_listing(root, path)).items():
        if state == "changed":
            found += explain_code_file(root, name, old[name])
        else:
            found.append(Cause("code", name, f"{name} is {state}"))
    return found


def explain_code_file(root: Path, path: str, digest: str) -> Iterator[Cause]:
    """What changed in one file of code: the place of a Python file, the pins of a pin file."""
    old, new = find_past_text(root, path, digest), (root / path).read_bytes()
    if old is None:
        yield Cause(
            "code", path, f"{path} changed (what ran is neither in .retune/code nor in git, so no place is known)"
        )
    elif path.startswith(PINS) and path.endswith(".txt"):
        yield from explain_pins(path, old.decode(), new.decode(errors="replace"))
    elif path.endswith(".py"):
        place = locate_change(old, new)
        harmless = "in comments or docstrings alone (`retune accept` records that as harmless)"
        yield Cause("code", path, f"{path} changed ({place})" if place else f"{path} changed {harmless}")
    else:
        yield Cause("code", path, f"{path} changed")


def explain_pins(path: str, old: str, new: str) -> Iterator[Cause]:
    """The packages of a pin file whose versions are others."""
    before, after = (
        dict(line.split("==", 1) for line in text.splitlines() if "==" in line and not line.startswith("#"))
        for text in (old, new)
    )
    changed = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    for name in changed:
        was, now = before.get(name), after.get(name)
        text = f"{name} {was or 'not pinned'} -> {now or 'not pinned'} ({path})"
        yield Cause("pin", name, text, was, now)
    if not changed:
        yield Cause("code", path, f"{path} changed, its pins did not")


def explain_input(root: Path, stage: str, path: str, locked: Mapping[str, Any], owners: list[str]) -> Iterator[Cause]:
    """What changed in an input: of a folder, which file, if anybody knows what it held.

    Args:
        root: the project.
        stage: the stage that reads it.
        path: the dep, which is there.
        locked: the stage's entry in dvc.lock.
        owners: the stages that write it, none of which is about to run.
    """
    digest = next((dep["md5"] for dep in locked.get("deps", []) if dep["path"] == path), "")
    since = f" ({' or '.join(owners)} has run since)" if owners else ""
    if not (root / path).is_dir():
        yield Cause("input", path, f"{path} changed{since}")
        return
    old = read_cached_listing(find_cache(root), path, digest) or find_past_listing(root, path, digest)
    if old is not None:
        yield from name_files("input", compare_listings(old, read_listing(root, path)), path, since)
        return
    read = read_recorded(root, path, locked)
    if read is None:
        yield Cause("input", path, f"{path} changed{since}; which of its files is not known")
        return
    states = {
        f"{path}/{name}": "changed" if (root / path / name).is_file() else "gone"
        for name, content in read.items()
        if not (root / path / name).is_file() or sha256_file(root / path / name) != content
    }
    if states:
        yield from name_files("input", states, path, since)
    else:
        yield Cause(
            "input", path, f"{path} changed, and no file of it that {stage} read: another came, went or changed"
        )


def read_recorded(root: Path, path: str, locked: Mapping[str, Any]) -> Mapping[str, str] | None:
    """{path in an input: sha256} of what the stage read of it, by its record; None without the record of that run, or of a whole input."""
    words = str(locked.get("cmd", "")).split()
    record = words[words.index("--record") + 1] if "--record" in words[:-1] else ""
    digest = next((out.get("md5") for out in locked.get("outs", []) if out["path"] == record), None)
    if digest is None or not (root / record).is_file() or digest_file(root / record) != digest:
        return None
    inputs = read_json(root / record)["inputs"].values()
    return next((one.get("files") for one in inputs if one["path"] == path), None)


def explain_output(root: Path, stage: str, path: str, state: str, digest: str) -> Iterator[Cause]:
    """What became of an output since the run."""
    if not digest:
        yield Cause("output", path, f"{path} is a new output in dvc.yaml")
    elif state == "deleted" or not (root / path).exists():
        yield Cause("output", path, f"{path} is missing; if the cache has it, `retune restore {stage}` brings it back")
    elif state == "not in cache":
        yield Cause("output", path, f"{path} is not in DVC's cache")
    elif (root / path).is_dir() and (old := read_cached_listing(find_cache(root), path, digest)) is not None:
        states = compare_listings(old, read_listing(root, path))
        yield from name_files("output", states, path, f" since {stage} wrote it")
    else:
        yield Cause("output", path, f"{path} was changed since {stage} wrote it")


def name_files(kind: Any, states: Mapping[str, str], path: str, since: str) -> Iterator[Cause]:  # noqa: ANN401 - a literal
    """A cause a file, and of very many the number of the rest."""
    for name, state in list(states.items())[:MOST]:
        words = f"changed{since}" if state == "changed" else f"is {state}{since}"
        yield Cause(kind, name, f"{name} {words}")
    if len(states) > MOST:
        yield Cause(kind, path, f"{len(states) - MOST} more files of {path} are others{since}")
    if not states:
        yield Cause(kind, path, f"{path} changed{since}, and back again meanwhile")
