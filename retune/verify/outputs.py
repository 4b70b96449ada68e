"""What stages wrote, as it lies there, against dvc.lock (md5) and the records (sha256)."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from retune.verify.fields import name_differences, read_object
from retune.verify.kinds import FROM_GIT, Difference, restore
from retune.verify.locked import LockedPath, list_outs
from retune.verify.seen import Seen
from stages.core.files import sha256_tree
from stages.dvc_lock.hashes import FOLDER, object_path
from stages.dvc_lock.records import find_record_path


def compare_outputs(seen: Seen) -> Iterator[Difference]:
    """Every out of dvc.lock."""
    for entry in seen.locked.values():
        for out in list_outs(entry):
            if seen.digest(out.path) == out.md5:
                yield from compare_record(seen, out)
                yield from compare_size(seen, out)
            else:
                yield from name_changes(seen, out)


def compare_record(seen: Seen, out: LockedPath) -> Iterator[Difference]:
    """An output whose bytes are dvc.lock's, against its stage's record."""
    recorded = seen.recorded(out.path)
    if recorded is None:
        return
    there = {name: one.sha256 for name, one in seen.below(out.path).items()}
    for name in sorted(there.keys() | recorded.keys()):
        if there.get(name) != recorded.get(name):
            says = (
                f"the record of {out.stage} {'names another sha256 of it' if name in recorded else 'does not name it'}"
            )
            remedy = (
                f"`dvc repro --force --single-item {out.stage}`"
                if is_record_locked(seen, out.stage)
                else restore(out.stage)
            )
            yield Difference("record_bytes", name, says, stage=out.stage, remedy=remedy)


def is_record_locked(seen: Seen, stage: str) -> bool:
    """Whether the record of a stage is the one that dvc.lock names: if so, nothing here has a better one."""
    path = find_record_path(seen.locked[stage])
    return path is not None and seen.digest(path) == seen.locked[stage].outs.get(path)


def compare_size(seen: Seen, out: LockedPath) -> Iterator[Difference]:
    """The size of an out, which DVC writes beside its hash."""
    found = sum(one.size for one in seen.below(out.path).values())
    if out.size is not None and out.size != found:
        says = f"{out.path} has {found} bytes, and dvc.lock says {out.size}"
        field = f"stages.{out.stage}.outs.{out.path}.size"
        yield Difference("lock_entry", "dvc.lock", says, field, out.stage, FROM_GIT.format(stage=out.stage))


def name_changes(seen: Seen, out: LockedPath) -> Iterator[Difference]:
    """What is not as dvc.lock has it: the lock, or the files."""
    unread = [name for name in seen.broken if name == out.path or name.startswith(f"{out.path}/")]
    if unread:
        for name in unread:
            yield Difference(
                "unreadable", name, seen.broken[name], stage=out.stage, remedy="look at its rights, and at the disk"
            )
        return
    if not (seen.root / out.path).exists():
        yield Difference(missing_kind(out.path), out.path, "is not there", stage=out.stage, remedy=restore(out.stage))
        return
    if is_lock_wrong(seen, out):
        yield Difference(
            "lock_hash",
            "dvc.lock",
            f"{out.path} is as {witness(seen, out)} has it, and dvc.lock names another md5",
            f"stages.{out.stage}.outs.{out.path}.md5",
            out.stage,
            FROM_GIT.format(stage=out.stage),
        )
        return
    yield from name_files(seen, out)


def missing_kind(path: str) -> str:
    """Of an output that is gone."""
    return "record_changed" if is_record(path) else "output_missing"


def is_record(path: str) -> bool:
    """Whether a path is a record's."""
    return path.startswith("data/records/")


def is_lock_wrong(seen: Seen, out: LockedPath) -> bool:
    """Whether record or cache say that the file is right: no one hash is believed, and two that agree outweigh the third."""
    recorded = seen.recorded(out.path)
    there = {name: one.sha256 for name, one in seen.below(out.path).items()}
    if recorded is not None:
        return recorded == there
    read = [
        source["sha256"]
        for record in seen.records.values()
        for source in record["inputs"].values()
        if source["path"] == out.path
    ]
    if read and is_record(out.path):
        return sha256_tree({Path(out.path).name: there.get(out.path, "")}) in read
    return seen.is_kept(seen.digest(out.path) or "-") and not seen.is_kept(out.md5)


def witness(seen: Seen, out: LockedPath) -> str:
    """Who says that a file is right."""
    return f"the record of {out.stage}" if seen.recorded(out.path) is not None else "a record or the cache"


def name_files(seen: Seen, out: LockedPath) -> Iterator[Difference]:
    """Each file of an output that is another one, came or went; with the fields of JSON files that differ."""
    there = seen.below(out.path)
    listing = seen.known_listing(out)
    recorded = seen.recorded(out.path)
    if listing is not None:
        states = compare_states({name: one.md5 for name, one in there.items()}, listing)
    elif recorded is not None:
        states = compare_states({name: one.sha256 for name, one in there.items()}, recorded)
    else:
        states = {out.path: "changed"}
    for name, state in states.items():
        if state == "gone":
            yield Difference(missing_kind(name), name, "is not there", stage=out.stage, remedy=restore(out.stage))
        elif state == "new":
            says = f"{out.stage} has not written it"
            yield Difference(
                "output_added",
                name,
                says,
                stage=out.stage,
                remedy=f"move it out of {out.path} (`retune restore --force {out.stage}` deletes it)",
            )
        else:
            yield from name_fields(seen, out, name, (listing or {}).get(name, ""))


def name_fields(seen: Seen, out: LockedPath, name: str, digest: str) -> Iterator[Difference]:
    """A file that changed: of a JSON file each field, if the cache has what was written."""
    kind = "record_changed" if is_record(name) else "output_changed"
    fields: list[tuple[str, str]] = []
    if name.endswith(".json"):
        kept = object_path(seen.store, digest) if digest and not digest.endswith(FOLDER) else None
        now = read_object((seen.root / name).read_bytes())
        before = read_object(kept.read_bytes()) if kept and kept.is_file() else None
        if now is not None and before is not None:
            fields = name_differences(before, now, ("written", "now"))
    for field, says in fields or [("", f"is not what {out.stage} wrote")]:
        yield Difference(kind, name, says, field, out.stage, restore(out.stage))


def compare_states(there: Mapping[str, str], written: Mapping[str, str]) -> dict[str, str]:
    """{file: `changed`, `new` or `gone`}."""
    return {
        name: "gone" if name not in there else "new" if name not in written else "changed"
        for name in sorted(there.keys() | written.keys())
        if there.get(name) != written.get(name)
    }
