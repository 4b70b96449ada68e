"""What speaks against taking a stage's edits as harmless: the changed params, files and folders, each compared with what ran."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retune.accept.same_code import code_difference, whole_use
from retune.accept.simplify import Key
from retune.dvc_files import compare_listings, read_lock
from retune.past_files import find_past_listing, find_past_text
from retune.yaml_files import read_yaml
from stages.core.project_code import md5
from stages.dvc_lock.hashes import digest_listing, read_listing


@dataclass
class Verdict:
    """What is known of a stage's edits. Harmless if there is no reason against it."""

    reasons: list[str] = field(default_factory=list)
    proven: list[str] = field(default_factory=list)
    texts: dict[str, bytes] = field(default_factory=dict)
    """{path: text} of the files that were compared, as they were then."""
    listings: dict[str, dict[str, str]] = field(default_factory=dict)
    """{folder: {path: md5} of its files} of the folders that were compared, as they were then."""
    params: dict[str, Any] = field(default_factory=dict)
    """{section: values} that were compared."""

    def digests(self) -> dict[str, str]:
        """{path: DVC's hash} of the deps that were compared."""
        inside = [f"{folder}/" for folder in self.listings]
        files = {path: md5(text) for path, text in self.texts.items() if not path.startswith(tuple(inside))}
        return files | {folder: digest_listing(folder, files) for folder, files in self.listings.items()}


def judge(root: Path, stage: str, changes: list[Any]) -> Verdict:
    """Whether all that `dvc status` says of a stage is harmless."""
    verdict = Verdict()
    locked = read_lock(root).get(stage, {})
    if changes and not locked:
        verdict.reasons.append("it has not run yet")
        return verdict
    deps = collect_changed_deps(changes, verdict)
    if verdict.reasons:
        return verdict
    added: dict[Key, object] = {}
    for path, sections in deps.items():
        if isinstance(sections, dict):
            judge_params(root, stage, path, list(sections), locked.get("params", {}).get(path, {}), added, verdict)
    if added:
        judge_whole_use(root, [item["path"] for item in locked.get("deps", [])], verdict)
    for path, state in deps.items():
        if isinstance(state, str):
            digest = next((item.get("md5", "") for item in locked.get("deps", []) if item["path"] == path), "")
            judge_dep(root, path, state, digest, added, verdict)
    return verdict


def collect_changed_deps(changes: list[Any], verdict: Verdict) -> dict[str, Any]:
    """{path: state, of a params file {section: state}} of the changed dependencies; any other change is a reason."""
    deps: dict[str, Any] = {}
    for change in changes:
        if isinstance(change, dict):
            deps |= change.get("changed deps", {})
            for path, state in change.get("changed outs", {}).items():
                todo = f"`dvc checkout {path}` brings back what the run made"
                verdict.reasons.append(f"its output {path} is {state}; {todo}")
        else:
            verdict.reasons.append("its command changed in dvc.yaml" if change == "changed command" else str(change))
    return deps


def judge_params(
    root: Path,
    stage: str,
    path: str,
    sections: list[str],
    locked: Mapping[str, Any],
    added: dict[Key, object],
    verdict: Verdict,
) -> None:
    """Compare sections of a params file with what the run had; keys that are new go into `added`.

    A stage that has a section of its own gets that one; of others (the audit's) it only looks whether its record and dvc.lock say the same.
    """
    present = read_yaml(root / path)
    for section in sections:
        if section not in present or section not in locked:
            verdict.reasons.append(f"{path}: the section {section} is {'gone' if section not in present else 'new'}")
            continue
        new: dict[Key, object] = {}
        verdict.reasons += [f"{path}: {section}.{name}" for name in compare(locked[section], present[section], (), new)]
        verdict.params[section] = present[section]
        verdict.proven += [
            f"{section}.{'.'.join(key)} is new and changes nothing at {value!r}" for key, value in new.items()
        ]
        if section == stage or stage not in locked:
            added |= new


def compare(old: object, new: object, above: Key, added: dict[Key, object]) -> list[str]:
    """What differs in two values beside keys that are new, which go into `added`. 1 and 1.0 and True differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = [f"{'.'.join((*above, key))} is gone" for key in old if key not in new]
        for key, value in new.items():
            if key in old:
                found += compare(old[key], value, (*above, key), added)
            else:
                added[*above, key] = value
        return found
    return [] if repr(old) == repr(new) else [f"{'.'.join(above)} was {old!r} and is {new!r}"]


def judge_whole_use(root: Path, paths: list[str], verdict: Verdict) -> None:
    """A new key is not switched off where the code takes params as a whole."""
    for path in python_files(root, paths):
        try:
            line = whole_use((root / path).read_bytes())
        except SyntaxError:
            continue  # said where the file is compared
        if line is not None:
            verdict.reasons.append(
                f"{path}, line {line}: reads its params as a whole, so a new key may show in the outputs"
            )


def python_files(root: Path, deps: list[str]) -> Iterator[str]:
    """The Python files that deps are, or that the folders of code among them hold."""
    for path in deps:
        if is_code_folder(root, path):
            yield from (name for name in read_listing(root, path) if name.endswith(".py"))
        elif path.endswith(".py") and (root / path).is_file():
            yield path


def is_code_folder(root: Path, path: str) -> bool:
    """Whether a dep is a package of the stages (or all of them), not data."""
    return path.partition("/")[0] == "stages" and (root / path).is_dir()


def judge_dep(root: Path, path: str, state: str, digest: str, added: Mapping[Key, object], verdict: Verdict) -> None:
    """Whether a changed dependency is code that does what it did when the stage ran."""
    if state != "modified":
        verdict.reasons.append(presence_reason(path, state))
    elif is_code_folder(root, path):
        judge_folder(root, path, digest, added, verdict)
    else:
        judge_file(root, path, digest, added, verdict)


def presence_reason(path: str, state: str) -> str:
    """The reason against a file that is `new` or `deleted`."""
    return f"{path} is {state}: only an edit of a file that was there can be compared"


def judge_folder(root: Path, path: str, digest: str, added: Mapping[Key, object], verdict: Verdict) -> None:
    """The same for a package, file by file: DVC's one hash of it is the hash of what it holds."""
    old, new = find_past_listing(root, path, digest), read_listing(root, path)
    if old is None:
        verdict.reasons.append(unknown_text_reason(path, digest))
        return
    for name, state in compare_listings(old, new).items():
        if state != "changed":
            verdict.reasons.append(presence_reason(name, "deleted" if state == "gone" else "new"))
        else:
            judge_file(root, name, old[name], added, verdict)
            if name in verdict.texts:
                new[name] = md5(verdict.texts[name])
    verdict.listings[path] = new


def judge_file(root: Path, path: str, digest: str, added: Mapping[Key, object], verdict: Verdict) -> None:
    """The same for a file."""
    if path in verdict.texts:
        return  # of a file of its own and of a folder
    if not path.endswith(".py") or not (root / path).is_file():
        verdict.reasons.append(f"{path} changed, and it is no Python file: what it holds is what the stage works on")
        return
    old, new = find_past_text(root, path, digest), (root / path).read_bytes()
    if old is None:
        verdict.reasons.append(unknown_text_reason(path, digest))
        return
    difference = code_difference(old, new, added)
    if difference:
        verdict.reasons.append(f"{path}: {difference}")
        return
    verdict.texts[path] = new
    verdict.proven.append(
        f"{path}: the same code" + (", given the new params" if added else " but for comments and docstrings")
    )


def unknown_text_reason(path: str, digest: str) -> str:
    """The reason where nobody has what ran."""
    what = "what it held when it ran" if digest.endswith(".dir") else "the text that ran"
    return f"{path}: {what} (md5 {digest}) is neither in git's history nor in .retune/code, so nothing can be compared"
