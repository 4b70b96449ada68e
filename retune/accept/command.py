"""`retune accept`: record an edit as harmless, so that nobody trains again for a comment.

DVC's key of a stage has the bytes of its code, and a docstring is bytes. `dvc commit -f` records the present bytes as those that made
the outputs; this verb does that only with a proof that they would have made the same ones (retune/accept/same_code.py).
"""

import hashlib
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from retune.accept.same_code import Key, code_difference, whole_use
from retune.project import dvc_status, give_up, print_json, project_root, run_dvc

# they read params as a whole: for the record of a run, which says what made it
RECORDERS = ("stages/core/runner.py", "stages/core/params.py")


@dataclass
class Verdict:
    """What is known of a stage's edits. Harmless if there is no reason against it."""

    reasons: list[str] = field(default_factory=list)
    proven: list[str] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    """{path: md5} of the files that were compared, as they were then."""
    params: dict[str, Any] = field(default_factory=dict)
    """{section: values} that were compared."""


def accept(
    stages: Annotated[
        list[str] | None, typer.Argument(metavar="[STAGE]...", help="Stages of dvc.yaml. None: every changed one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
) -> None:
    """Record edits as harmless: the stage does not run again for them.

    Only where that is proven: the changed code is the same without comments and docstrings, or differs only in what a new param,
    at its present value, switches off. Anything else is refused with the reason.
    """
    root = project_root()
    try:
        status = dvc_status(root, *(stages or []))
    except ValueError as error:
        give_up(str(error))
    results: dict[str, Verdict] = {}
    for stage in stages or list(status):
        results[stage] = judge(root, stage, status.get(stage, []))
        if stage in status and not results[stage].reasons:
            results[stage].reasons = record(root, stage, results[stage])
    if as_json:
        print_json(
            {
                stage: {"accepted": not result.reasons, "proven": result.proven, "reasons": result.reasons}
                for stage, result in results.items()
            }
        )
    else:
        for stage, result in results.items():
            print_result(stage, result)
        if not results:
            print("nothing has changed")
    if any(result.reasons for result in results.values()):
        raise typer.Exit(1)


def print_result(stage: str, result: Verdict) -> None:
    """A stage's verdict in words."""
    if result.reasons:
        print(f"{stage}: not accepted; `dvc repro` runs it again")
        for reason in result.reasons:
            print(f"  {reason}")
    elif result.proven:
        print(f"{stage}: accepted")
        for fact in result.proven:
            print(f"  {fact}")
    else:
        print(f"{stage}: nothing has changed")


def judge(root: Path, stage: str, changes: list[Any]) -> Verdict:
    """Whether all that `dvc status` says of a stage is harmless."""
    verdict = Verdict()
    locked = locked_stage(root, stage)
    if changes and not locked:
        verdict.reasons.append("it has not run yet")
        return verdict
    deps = collect_changed_deps(changes, verdict)
    if verdict.reasons:
        return verdict
    added: dict[Key, object] = {}
    for path, sections in deps.items():
        if isinstance(sections, dict):
            judge_params(root, path, list(sections), locked.get("params", {}).get(path, {}), added, verdict)
    if added:
        judge_whole_use(root, [item["path"] for item in locked["deps"]], verdict)
    for path, state in deps.items():
        if isinstance(state, str):
            digest = next((item.get("md5", "") for item in locked["deps"] if item["path"] == path), "")
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
    root: Path, path: str, sections: list[str], locked: Mapping[str, Any], added: dict[Key, object], verdict: Verdict
) -> None:
    """Compare sections of a params file with what the run had; keys that are new go into `added`."""
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
    for path in paths:
        if path.endswith(".py") and path not in RECORDERS and (root / path).is_file():
            try:
                line = whole_use((root / path).read_bytes())
            except SyntaxError:
                continue  # said where the file is compared
            if line is not None:
                verdict.reasons.append(
                    f"{path}, line {line}: reads its params as a whole, so a new key may show in the outputs"
                )


def judge_dep(root: Path, path: str, state: str, digest: str, added: Mapping[Key, object], verdict: Verdict) -> None:
    """Whether a changed dependency is a Python file that does what it did when the stage ran."""
    if state != "modified":
        verdict.reasons.append(f"{path} is {state}: only an edit of a file that was there can be compared")
        return
    if not path.endswith(".py") or not (root / path).is_file():
        verdict.reasons.append(f"{path} changed, and it is no Python file: what it holds is what the stage works on")
        return
    old, new = find_old_text(root, path, digest), (root / path).read_bytes()
    if old is None:
        verdict.reasons.append(
            f"{path}: the text that ran (md5 {digest}) is neither in git's history nor in .retune/code, so nothing can be compared"
        )
        return
    difference = code_difference(old, new, added)
    if difference:
        verdict.reasons.append(f"{path}: {difference}")
        return
    verdict.digests[path] = md5(new)
    verdict.proven.append(
        f"{path}: the same code" + (", given the new params" if added else " but for comments and docstrings")
    )


def record(root: Path, stage: str, verdict: Verdict) -> list[str]:
    """Have DVC record the present bytes; the reasons if it did not, or recorded others than those that were compared."""
    lock = root / "dvc.lock"
    before, outs = lock.read_bytes(), locked_stage(root, stage).get("outs")
    # without relinking: it would write gigabytes of outputs once more, from the cache
    result = run_dvc(root, "--wait-for-lock", "commit", "--force", "--no-relink", stage)
    if result.returncode != 0:
        return [f"dvc commit: {result.stderr.strip().splitlines()[-1] if result.stderr.strip() else result.returncode}"]
    after = locked_stage(root, stage)
    digests = {item["path"]: item.get("md5") for item in after["deps"]}
    sections: dict[str, Any] = {}
    for values in after.get("params", {}).values():
        sections |= values
    moved = [path for path, digest in verdict.digests.items() if digests.get(path) != digest]
    moved += [section for section, values in verdict.params.items() if repr(sections.get(section)) != repr(values)]
    moved += ["its outputs"] if after.get("outs") != outs else []
    left = [] if moved else dvc_status(root, stage).get(stage, [])
    if not moved and not left:
        for path, digest in verdict.digests.items():
            keep_text(root, digest, (root / path).read_bytes())
        return []
    lock.write_bytes(before)
    return [f"{', '.join(moved) or left} changed while it was compared; nothing was recorded"]


def find_old_text(root: Path, path: str, digest: str) -> bytes | None:
    """The file's text whose md5 DVC recorded: from the stages' own copies, the index, or any commit of git that touched it."""
    for copy in sorted((root / ".retune" / "code").glob("*")):
        if copy.is_file() and md5(copy.read_bytes()) == digest:
            return copy.read_bytes()
    return next((text for text in git_texts(root, path) if md5(text) == digest), None)


def keep_text(root: Path, digest: str, text: bytes) -> None:
    """Keep what was accepted: the next edit is compared with it, and it need not be committed by then."""
    folder = root / ".retune" / "code"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{digest}.py").write_bytes(text)


def git_texts(root: Path, path: str) -> Iterator[bytes]:
    """The texts that git has of a file, the newest first."""
    log = subprocess.run(
        ["git", "log", "--all", "--format=%H", "--", path], cwd=root, capture_output=True, text=True, check=False
    )
    for commit in ["", *log.stdout.split()]:  # "" is the index
        blob = subprocess.run(["git", "show", f"{commit}:./{path}"], cwd=root, capture_output=True, check=False)
        if blob.returncode == 0:
            yield blob.stdout


def md5(text: bytes) -> str:
    """DVC's digest of a file: a name for bytes, no proof against malice."""
    return hashlib.md5(text, usedforsecurity=False).hexdigest()


def locked_stage(root: Path, stage: str) -> dict[str, Any]:
    """What dvc.lock has of a stage; empty if it has not run."""
    lock = root / "dvc.lock"
    found: dict[str, Any] = read_yaml(lock).get("stages", {}).get(stage, {}) if lock.is_file() else {}
    return {"deps": [], **found} if found else {}


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's mapping, read as DVC reads it."""
    from ruamel.yaml import YAML

    values: dict[str, Any] = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8")) or {}
    return values
