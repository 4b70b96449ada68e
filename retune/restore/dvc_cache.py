"""What dvc.lock names and DVC's cache holds, each object hashed again: DVC's own checkout believes what lies there.

An object that is damaged or gone is made again of a file of the project that has its bytes; one that cannot be is removed, so that DVC
hands it out no more.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from retune.past_files import read_git_texts
from retune.verify.digests import hash_files
from retune.verify.locked import LockedPath
from retune.verify.seen import Seen
from retune.yaml_files import read_yaml
from stages.core.project_code import md5
from stages.dvc_lock.hashes import FOLDER, digest_file, digest_listing, object_path


@dataclass
class KeptObjects:
    """An output's objects in the cache."""

    whole: dict[str, str] = field(default_factory=dict)
    """{path below the project: hash}."""
    damaged: dict[str, str] = field(default_factory=dict)
    """The same of those that have other bytes than their names say."""
    lacking: dict[str, str] = field(default_factory=dict)
    """The same of those that are not there."""

    def problem(self, root: Path, store: Path, stage: str) -> str:
        """Why the output cannot come out of the cache; empty if it can."""
        if self.damaged:
            paths = [object_path(store, digest) for digest in self.damaged.values()]
            files = " ".join(str(path.relative_to(root) if path.is_relative_to(root) else path) for path in paths)
            return (
                f"is damaged in the cache; remove what is wrong there (`rm -f {files}`), or have `retune restore --force {stage}` do it, "
                f"then `dvc repro {stage}` makes it again"
            )
        if self.lacking:
            more = f" and {len(self.lacking) - 1} more" if len(self.lacking) > 1 else ""
            return f"is not in the cache ({next(iter(self.lacking))}{more}); `dvc pull {stage}` if you have a remote, else `dvc repro {stage}`"
        return ""


def read_uncached(root: Path) -> set[str]:
    """The outputs in dvc.yaml that DVC is told not to keep (`cache: false`)."""
    found = set()
    for stage in read_yaml(root / "dvc.yaml").get("stages", {}).values():
        for out in [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]:
            if isinstance(out, dict):
                found |= {path for path, settings in out.items() if settings and settings.get("cache") is False}
    return found


def look_at_objects(seen: Seen, out: LockedPath) -> KeptObjects:
    """Every object that an output is made of, hashed; of a folder, its listing first."""
    objects = {out.path: out.md5}
    if out.md5.endswith(FOLDER):
        objects |= seen.known_listing(out) or {}
    places = {name: object_path(seen.store, digest) for name, digest in objects.items()}
    digests, _ = hash_files(
        (path for path in places.values() if path.is_file()), f"hashing {out.path} in the cache", sha256=False
    )
    found = KeptObjects()
    for name, digest in objects.items():
        there = digests.get(places[name])
        if there is not None and there.md5 == digest.removesuffix(FOLDER):
            found.whole[name] = digest
        elif places[name].exists():
            found.damaged[name] = digest
        else:
            found.lacking[name] = digest
    return found


def mend_objects(seen: Seen, out: LockedPath) -> tuple[KeptObjects, list[str]]:
    """(the objects as they are then, the files whose objects were made again) of an output whose cache is damaged or lacks something."""
    mended: list[str] = []
    objects = look_at_objects(seen, out)
    for _ in range(2):  # with its listing whole, a folder's other objects are known
        for name, digest in {**objects.damaged, **objects.lacking}.items():
            if mend_object(seen, out, name, digest):
                mended.append(name)
            elif name in objects.damaged:
                object_path(seen.store, digest).unlink()
        before, objects = objects, look_at_objects(seen, out)
        if objects == before or not (objects.damaged or objects.lacking):
            break
    return objects, mended


def mend_object(seen: Seen, out: LockedPath, name: str, digest: str) -> bool:
    """Make an object again of what lies in the project; whether something there has its bytes."""
    place = object_path(seen.store, digest)
    temporary = place.with_name(f".{place.name}.partial")
    if digest.endswith(FOLDER):
        files = {path: one.md5 for path, one in seen.below(out.path).items()}
        if out.path not in seen.folders or digest_listing(out.path, files) != digest:
            return False
        entries = [{"md5": one, "relpath": path.removeprefix(f"{out.path}/")} for path, one in sorted(files.items())]
        temporary.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(sorted(entries, key=lambda entry: entry["relpath"])), encoding="utf-8")
    else:
        whole = seen.files.get(name)
        if whole is None or whole.md5 != digest:
            return False
        temporary.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(seen.root / name, temporary)
    if digest_file(temporary) != digest.removesuffix(FOLDER):
        temporary.unlink()
        return False
    temporary.chmod(0o444)  # DVC takes such an object for one that it has looked at
    temporary.replace(place)
    return True


def restore_from_git(root: Path, out: LockedPath) -> bool:
    """Write a file that DVC does not keep as git has it, if any commit has the bytes that dvc.lock names."""
    text = next((text for text in read_git_texts(root, out.path) if md5(text) == out.md5), None)
    if text is None:
        return False
    path = root / out.path
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_bytes(text)
    temporary.replace(path)
    return True


def find_wrong_files(seen: Seen, out: LockedPath, listing: Mapping[str, str]) -> list[Path]:
    """The files of an output that are there and are not as dvc.lock has them."""
    return [seen.root / name for name, one in seen.below(out.path).items() if listing.get(name) != one.md5]
