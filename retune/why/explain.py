"""From what `dvc status` says to causes: what makes each stage run, and which stages wait for it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from retune.dvc_files import read_lock, read_owners
from retune.why.cause import Cause
from retune.why.files import explain_code, explain_input, explain_output
from retune.why.params import explain_command, explain_params
from retune.yaml_files import read_yaml

CONSTANT = "check"
"""The stage whose output never changes: all others wait for it, and none runs because of it."""


@dataclass(frozen=True)
class Explanation:
    """Why a stage would run."""

    causes: list[Cause]
    """What makes it run; empty if nothing of its own does."""
    after: list[str]
    """The stages that run before it and may give other outputs: then it runs, too. In the order of the pipeline."""


@dataclass(frozen=True)
class WrittenState:
    """What is written down of a project's stages."""

    root: Path
    locked: Mapping[str, Mapping[str, Any]]
    """{stage: its entry in dvc.lock}."""
    declared: Mapping[str, Mapping[str, Any]]
    """{stage: its entry in dvc.yaml}."""
    owners: Mapping[str, str]
    """{path: the stage that writes it}."""
    read_code: Callable[[str, str], list[Cause]]
    """explain_code, each package once: it is in the key of many stages."""


def explain(root: Path, status: Mapping[str, list[Any]], dag: Mapping[str, tuple[str, ...]]) -> dict[str, Explanation]:
    """Why each stage would run, in the order of the pipeline.

    Args:
        root: the project.
        status: what `dvc status` says of all stages.
        dag: {stage: stages whose outputs it reads}, in the order of the pipeline.
    """
    declared = read_yaml(root / "dvc.yaml").get("stages", {})
    written = WrittenState(root, read_lock(root), declared, read_owners(declared), cache(partial(explain_code, root)))
    found: dict[str, Explanation] = {}
    for stage, upstream in dag.items():
        after = {name for up in upstream if up != CONSTANT for name in ([up] if found[up].causes else found[up].after)}
        running = {name for name, one in found.items() if one.causes}
        causes = list(explain_stage(written, stage, status.get(stage, []), running))
        found[stage] = Explanation(causes, [name for name in dag if name in after])
    return found


def explain_stage(written: WrittenState, stage: str, changes: list[Any], running: set[str]) -> Iterator[Cause]:
    """The causes in what `dvc status` says of a stage; `running` are the stages before it that will run."""
    locked = written.locked.get(stage)
    if locked is None:
        if stage in written.declared and changes:
            yield Cause("first", stage, "has not run yet")
        elif changes:  # a file that `dvc add` tracks
            paths = [path for change in changes if isinstance(change, dict) for path in change.get("changed outs", {})]
            yield from (Cause("output", path, f"{path} is not what {stage} says") for path in paths)
        return
    digests = {item["path"]: item.get("md5", "") for item in [*locked.get("deps", []), *locked.get("outs", [])]}
    for change in changes:
        if not isinstance(change, dict):
            yield explain_word(change, locked.get("cmd"), written.declared.get(stage, {}).get("cmd"))
            continue
        for path, state in change.get("changed deps", {}).items():
            yield from explain_dep(written, stage, path, state, digests.get(path, ""), running)
        for path, state in change.get("changed outs", {}).items():
            yield from explain_output(written.root, stage, path, state, digests.get(path, ""))


def explain_word(change: object, old: object, new: object) -> Cause:
    """What DVC says in a word of its own, of which only the changed command is known here."""
    if change != "changed command":
        return Cause("command", "cmd", str(change))
    if isinstance(old, str) and isinstance(new, str):
        return explain_command(old, new)
    return Cause("command", "cmd", "its command changed in dvc.yaml")


def explain_dep(
    written: WrittenState,
    stage: str,
    path: str,
    state: Any,  # noqa: ANN401 - JSON as it comes: a word, of a params file {section: word}
    digest: str,
    running: set[str],
) -> Iterable[Cause]:
    """The causes in one changed dependency."""
    root, locked = written.root, written.locked[stage]
    params = locked.get("params", {})
    if path in params or isinstance(state, dict):
        return explain_params(root, path, state, params.get(path, {}))
    writers = {owner for out, owner in written.owners.items() if is_within(out, path) or is_within(path, out)}
    if writers & running:
        return []  # who writes it runs first: then it may be as it was
    if not digest:
        return [Cause("input", path, f"{path} is new among its inputs in dvc.yaml")]
    if not (root / path).exists():
        return [Cause("code" if is_code(path) else "input", path, f"{path} is missing")]
    if is_code(path):
        return written.read_code(path, digest)
    return explain_input(root, stage, path, locked, sorted(writers))


def is_within(path: str, folder: str) -> bool:
    """Whether a path is a folder or lies in it."""
    return path == folder or path.startswith(f"{folder}/")


def is_code(path: str) -> bool:
    """Whether a dep is code of the stages, or the pins of what it stands on."""
    return path == "stages" or path.startswith("stages/")
