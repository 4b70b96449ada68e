"""What dvc.lock names and DVC's cache holds, each object hashed again: DVC's own checkout believes what lies there."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from retune.dvc_files import find_cache, read_cached_listing, read_yaml
from retune.past_files import read_git_texts
from stages.core.project_code import md5
from stages.dvc_lock.hashes import FOLDER, digest_file, object_path


def read_uncached(root: Path) -> set[str]:
    """The outputs in dvc.yaml that DVC is told not to keep (`cache: false`)."""
    found = set()
    for stage in read_yaml(root / "dvc.yaml").get("stages", {}).values():
        for out in [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]:
            if isinstance(out, dict):
                found |= {path for path, settings in out.items() if settings and settings.get("cache") is False}
    return found


def find_problem(root: Path, stage: str, out: Mapping[str, Any]) -> str:
    """Why an output of dvc.lock cannot come out of the cache; empty if every object of it is there and whole."""
    if out.get("hash") != "md5":
        return "was kept by another DVC, whose cache is not known here; `dvc checkout` may bring it back"
    store = find_cache(root)
    lacking, damaged = [], []
    for name, digest in list_objects(store, out):
        path = object_path(store, digest)
        if not path.is_file():
            lacking.append(name)
        elif digest_file(path) != digest.removesuffix(FOLDER):
            damaged.append(path)
    if damaged:
        files = " ".join(str(path.relative_to(root) if path.is_relative_to(root) else path) for path in damaged)
        return f"is damaged in the cache; remove what is wrong there (`rm -f {files}`), then `dvc repro {stage}` makes it again"
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        return f"is not in the cache ({lacking[0]}{more}); `dvc pull {stage}` if you have a remote, else `dvc repro {stage}`"
    return ""


def restore_from_git(root: Path, out: Mapping[str, Any]) -> bool:
    """Write a file that DVC does not keep as git has it, if any commit has the bytes that dvc.lock names."""
    text = next((text for text in read_git_texts(root, out["path"]) if md5(text) == out["md5"]), None)
    if text is None:
        return False
    path = root / out["path"]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_bytes(text)
    temporary.replace(path)
    return True


def list_objects(store: Path, out: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(file, hash) of every object that an output is made of; of a folder, its listing first."""
    yield out["path"], out["md5"]
    yield from (read_cached_listing(store, out["path"], out["md5"]) or {}).items()


def only_lacks(root: Path, out: Mapping[str, Any]) -> bool:
    """Whether all that is there of a folder is as dvc.lock has it, so that bringing back the rest changes nothing."""
    folder = root / out["path"]
    files = dict(list_objects(find_cache(root), out))
    if not folder.is_dir() or len(files) == 1:
        return False
    there = {path.relative_to(root).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return all(digest_file(path) == files.get(name) for name, path in there.items())
