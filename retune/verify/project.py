"""All comparisons of a project, in order."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from retune.dvc_files import read_owners
from retune.verdict import GATE
from retune.verify.cache import compare_cache, compare_run_cache
from retune.verify.inputs import compare_inputs
from retune.verify.judgement import compare_executions, compare_judgement
from retune.verify.kinds import FROM_GIT, Difference, Verified
from retune.verify.lock_form import compare_form, compare_params
from retune.verify.locked import list_outs
from retune.verify.outputs import compare_outputs
from retune.verify.records import RECORDS, compare_code, compare_records, read_records
from retune.verify.remedies import settle_remedies
from retune.verify.seen import Seen, hash_project
from retune.yaml_files import read_yaml
from stages.contracts.audit import GateVerdict, read_answer
from stages.core.errors import StageError
from stages.core.files import sha256_tree
from stages.core.params import read_params
from stages.dvc_lock.lock import LockedStage, read_locked_stages

OF_FORMER_RUN = {
    "lock_entry",
    "lock_chain",
    "lock_command",
    "params_changed",
    "code_changed",
    "output_changed",
    "output_missing",
}
"""What is found of a stage that has failed since: its entry of dvc.lock, if there is one, is of a run before."""


def verify_project(root: Path, store: Path, *, deep: bool = False, remote: Any = None) -> Verified:  # noqa: ANN401 - DVC's
    """Everything that is not as it was written down.

    Args:
        root: the project.
        store: DVC's cache.
        deep: whether the cache is looked at.
        remote: the remote's store of objects, if it is to be looked at.

    Raises:
        StageError: dvc.yaml cannot be read, or the remote does not answer.
    """
    declared = read_declared(root)
    notes: list[str] = []
    try:
        locked = read_locked_stages(root)
    except StageError as error:
        remedy = "`git checkout -- dvc.lock` if it is committed, else `dvc repro`"
        return Verified([Difference("lock_unreadable", "dvc.lock", str(error), remedy=remedy)], notes, 0, 0)
    seen, found = look(root, store, locked)
    there = {path: (root / path).exists() for path in read_owners(declared)}
    found += compare_form(declared, locked, there, notes)
    found += compare_parameters(root, declared, locked, notes)
    found += compare_outputs(seen)
    found += compare_inputs(seen, notes)
    digests = {
        path: sha256_tree({Path(path).name: one.sha256})
        for path, one in seen.files.items()
        if path.startswith(f"{RECORDS}/")
    }
    found += compare_records(seen.records, locked, digests)
    found += compare_code(root, seen.records, locked)
    found += compare_judgement(root, seen.records)
    found += compare_executions(root, locked)
    uncached = read_uncached(declared)
    if deep:
        found += compare_cache(seen, uncached)
        found += compare_run_cache(store)
    if remote is not None:
        found += compare_remote_objects(seen, uncached, remote)
    found = settle_remedies(seen, leave_refusal(root, found, notes))
    return Verified(merge_same(found), notes, len(seen.files), sum(one.size for one in seen.files.values()))


def leave_refusal(root: Path, found: list[Difference], notes: list[str]) -> list[Difference]:
    """Without what is so because the gate said no: DVC notes nothing down of a stage that fails, and a gate that stops is one.

    What gate.json says is held against the verdict all the same.
    """
    others = [one for one in found if one.stage != "gate" or one.kind not in OF_FORMER_RUN]
    if len(others) == len(found) or any(one.path == GATE.as_posix() for one in others):
        return found
    try:
        gate = read_answer(root / GATE, GateVerdict)
    except ValueError:
        return found
    if gate.passed:
        return found
    notes.append(
        f"the gate said no, and DVC notes nothing down of a stage that fails: {GATE} is held against the verdict alone"
    )
    return others


def look(root: Path, store: Path, locked: dict[str, LockedStage]) -> tuple[Seen, list[Difference]]:
    """All hashed, with the records that can be read, and what is wrong with others."""
    paths = [out.path for entry in locked.values() for out in list_outs(entry) if out.path.startswith(f"{RECORDS}/")]
    records, wrong = read_records(root, paths)
    return replace(hash_project(root, store, locked), records=records), wrong


def compare_remote_objects(seen: Seen, uncached: set[str], remote: Any) -> Iterable[Difference]:  # noqa: ANN401 - DVC's
    """The remote's objects; DVC is imported here alone."""
    from retune.verify.remote import compare_remote

    return compare_remote(seen, uncached, remote)


def compare_parameters(
    root: Path, declared: dict[str, Any], locked: dict[str, LockedStage], notes: list[str]
) -> list[Difference]:
    """params.yaml against dvc.lock; one that cannot be read is a difference."""
    try:
        values = read_params(root / "params.yaml")
    except (StageError, OSError) as error:
        return [
            Difference(
                "params_changed",
                "params.yaml",
                str(error),
                remedy=FROM_GIT.format(stage="check").replace("dvc.lock", "params.yaml"),
            )
        ]
    return list(compare_params(declared, locked, values, notes))


def read_declared(root: Path) -> dict[str, Any]:
    """dvc.yaml's stages. Raises StageError."""
    try:
        stages = read_yaml(root / "dvc.yaml")["stages"]
        named = [
            one
            for entry in stages.values()
            for kind in ("deps", "outs", "metrics", "plots")
            for item in entry.get(kind, [])
            for one in (item if isinstance(item, dict) else [item])
        ]
    except (StageError, OSError, KeyError, TypeError, AttributeError) as error:
        raise StageError("dvc.yaml cannot be read, so nothing says what belongs to the project") from error
    if not all(isinstance(one, str) for one in named):
        raise StageError("dvc.yaml has a dep or an output that is no path, so nothing says what belongs to the project")
    return dict(stages)


def read_uncached(declared: dict[str, Any]) -> set[str]:
    """The outputs that DVC is told not to keep (`cache: false`)."""
    listed = [
        out for entry in declared.values() for kind in ("outs", "metrics", "plots") for out in entry.get(kind, [])
    ]
    named = [item for out in listed if isinstance(out, dict) for item in out.items()]
    return {path for path, settings in named if settings and settings.get("cache") is False}


def merge_same(found: Iterable[Difference]) -> list[Difference]:
    """One for each thing: what several stages read is told once, with all of them."""
    merged: dict[tuple[str, ...], Difference] = {}
    for one in found:
        key = (one.kind, one.path, one.field, one.says)
        before = merged.get(key)
        stages = [*(before.stage.split(", ") if before else []), one.stage]
        merged[key] = replace(before or one, stage=", ".join(dict.fromkeys(stages)))
    return list(merged.values())
