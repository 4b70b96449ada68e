"""What stages read, as it lies there: code, pins, files of yours; and dvc.lock's entries of one path against each other."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retune.past_files import find_past_listing
from retune.verify.kinds import FROM_GIT, TOUCH, Difference
from retune.verify.locked import LockedPath, list_deps
from retune.verify.outputs import compare_states
from retune.verify.seen import Seen
from stages.core.files import sha256_tree


def compare_inputs(seen: Seen, notes: list[str]) -> Iterator[Difference]:
    """Every dep of dvc.lock; what is told and is no difference goes to `notes`."""
    listings: dict[tuple[str, str], dict[str, str] | None] = {}
    for entry in seen.locked.values():
        for dep in list_deps(entry):
            if dep.path in seen.owners:
                yield from compare_with_owner(seen, dep)
            elif is_written(seen, dep.path):
                yield from compare_with_parts(seen, dep)
            elif seen.digest(dep.path) == dep.md5:
                yield from compare_read(seen, dep)
            elif dep.path.startswith("data/"):
                yield from compare_source(seen, dep, notes)
            else:
                yield from compare_code(seen, dep, listings)


def is_written(seen: Seen, path: str) -> bool:
    """Whether stages write what a dep is a part of, or consists of."""
    return any(path.startswith(f"{out}/") or out.startswith(f"{path}/") for out in seen.owners)


def compare_with_owner(seen: Seen, dep: LockedPath) -> Iterator[Difference]:
    """A dep that a stage wrote: both entries of dvc.lock must name the same bytes."""
    out = seen.owners[dep.path]
    if out.md5 != dep.md5:
        says = f"{dep.stage} read another {dep.path} than {out.stage} wrote"
        yield chain(dep, says)


def chain(dep: LockedPath, says: str) -> Difference:
    """Two entries of dvc.lock that do not meet."""
    return Difference(
        "lock_chain",
        "dvc.lock",
        says,
        f"stages.{dep.stage}.deps.{dep.path}.md5",
        dep.stage,
        f"`dvc repro {dep.stage}`, or {FROM_GIT.format(stage=dep.stage)}",
    )


def compare_with_parts(seen: Seen, dep: LockedPath) -> Iterator[Difference]:
    """A dep that lies in an output, or is a folder of outputs: by the files, where these are as they were written."""
    parts = [
        out for path, out in seen.owners.items() if dep.path.startswith(f"{path}/") or path.startswith(f"{dep.path}/")
    ]
    if seen.digest(dep.path) == dep.md5:
        return
    if all(seen.digest(out.path) == out.md5 for out in parts):
        written = {name for out in parts for name in seen.below(out.path)}
        added = [name for name in seen.below(dep.path) if name not in written]
        for name in added:
            yield Difference(
                "output_added",
                name,
                f"no stage has written it, and {dep.stage} reads {dep.path}",
                stage=dep.stage,
                remedy=f"move it out of {dep.path}",
            )
        if not added:
            yield chain(dep, f"{dep.stage} read another {dep.path} than was written")


def find_input(seen: Seen, dep: LockedPath) -> dict[str, Any] | None:
    """What the record of a stage says of an input; None where it says nothing."""
    inputs = seen.records.get(dep.stage, {}).get("inputs", {}).values()
    return next((one for one in inputs if one["path"] == dep.path), None)


def compare_read(seen: Seen, dep: LockedPath) -> Iterator[Difference]:
    """A source that is as dvc.lock has it: the stage must have read it so, too."""
    if find_input(seen, dep) is None:
        return
    for name in find_others(seen, dep):
        says = f"{dep.stage} read other bytes than dvc.lock has: it was edited when the stage had just ended"
        yield Difference("lock_false", name, says, stage=dep.stage, remedy=f"`dvc repro --force {dep.stage}`")


def find_others(seen: Seen, dep: LockedPath) -> dict[str, str]:
    """{file: `changed` or `gone`} of what a stage has read, by its record, and what lies there."""
    read = find_input(seen, dep) or {}
    there = {name: one.sha256 for name, one in seen.below(dep.path).items()}
    if "files" not in read:
        names = {
            name.removeprefix(f"{dep.path}/") if dep.path in seen.folders else Path(name).name: digest
            for name, digest in there.items()
        }
        return {} if there and sha256_tree(names) == read["sha256"] else {dep.path: "changed" if there else "gone"}
    single = dep.path not in seen.folders
    known = {dep.path if single else f"{dep.path}/{name}": digest for name, digest in read["files"].items()}
    return compare_states({name: digest for name, digest in there.items() if name in known}, known)


def compare_source(seen: Seen, dep: LockedPath, notes: list[str]) -> Iterator[Difference]:
    """Files of the user's: those that the stage read, by its record; others made no model another one and are told."""
    read = find_input(seen, dep)
    there = {name: one.sha256 for name, one in seen.below(dep.path).items()}
    if read is None:
        yield source_difference("source_changed" if there else "source_missing", dep, dep.path)
        return
    states = find_others(seen, dep)
    for name, state in states.items():
        yield source_difference("source_missing" if state == "gone" else "source_changed", dep, name)
    if not states and dep.path in seen.folders:
        others = f"{dep.path}: a file that {dep.stage} has not read came, went or changed; it made no model another one, and `dvc repro` runs {dep.stage} for it"
        notes.append(others)
    elif not states:
        yield wrong_hash(dep)


def source_difference(kind: str, dep: LockedPath, name: str) -> Difference:
    """A source that is another one, or gone."""
    says = "is not there" if kind == "source_missing" else "is not what was read"
    remedy = "put it back" if kind == "source_missing" else TOUCH.format(path=name)
    return Difference(kind, name, says, stage=dep.stage, remedy=remedy)


def compare_code(
    seen: Seen, dep: LockedPath, listings: dict[tuple[str, str], dict[str, str] | None]
) -> Iterator[Difference]:
    """Code and pins: which file is another one than at the stage's run, where the stages' own copies or git tell."""
    there = {name: one.md5 for name, one in seen.below(dep.path).items()}
    if dep.path not in seen.folders:
        yield from [wrong_hash(dep)] if is_as_run(seen, dep) else name_code(seen, dep, [dep.path])
        return
    before = find_listing(seen, dep.path, dep.md5, listings)
    if before is not None:
        yield from name_code(seen, dep, list(compare_states(there, before)))
    elif is_as_run(seen, dep) and find_listing(seen, dep.path, seen.digest(dep.path) or "", listings) is not None:
        yield wrong_hash(dep)
    else:
        yield from name_code(seen, dep, [dep.path])


def find_listing(
    seen: Seen, path: str, digest: str, listings: dict[tuple[str, str], dict[str, str] | None]
) -> dict[str, str] | None:
    """What a folder of code held when it had a hash, as far as the stages' own copies or git tell; looked for once."""
    if (path, digest) not in listings:
        listings[path, digest] = find_past_listing(seen.root, path, digest)
    return listings[path, digest]


def is_as_run(seen: Seen, dep: LockedPath) -> bool:
    """Whether every module of a dep that the record of its stage names is as it was run."""
    code = seen.records.get(dep.stage, {}).get("code", {})
    known = [name for name in seen.below(dep.path) if name in code]
    return bool(known) and all(code[name] == seen.files[name].sha256 for name in known)


def wrong_hash(dep: LockedPath) -> Difference:
    """A hash of dvc.lock that is not of what the stage read, as its record has it and as it lies there."""
    says = f"{dep.path} is as the record of {dep.stage} has it, and dvc.lock names another md5"
    field = f"stages.{dep.stage}.deps.{dep.path}.md5"
    return Difference("lock_hash", "dvc.lock", says, field, dep.stage, FROM_GIT.format(stage=dep.stage))


def name_code(seen: Seen, dep: LockedPath, names: list[str]) -> Iterator[Difference]:
    """The files of code that changed."""
    for name in names:
        gone = name not in seen.files and name not in seen.folders
        says = "is gone since it was run" if gone else "is another one than was run"
        yield Difference("code_changed", name, says, stage=dep.stage, remedy=TOUCH.format(path=name))
