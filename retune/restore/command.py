"""`retune restore`: the last good files of a stage, back from DVC's cache.

DVC deletes a stage's outputs before it runs it, so a run that fails takes the former files with it. dvc.lock still names them, and
the cache still holds them. DVC's checkout believes its cache; here every object is hashed again before its file is brought back.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from retune.project import dvc_status, give_up, print_json, project_root, run_dvc


@dataclass
class RestoredOutput:
    """One output of a stage, and what became of it."""

    path: str
    state: str
    """`there`, `missing`, `partly` (nothing but missing files), `changed`; afterwards perhaps `back`."""
    problem: str = ""
    """Why it is not brought back."""


@dataclass
class RestoredStage:
    """One stage."""

    stage: str
    outputs: list[RestoredOutput]
    since: list[str] = field(default_factory=list)
    """What the files in dvc.lock were made from and is no longer so."""


def restore(
    stages: Annotated[list[str] | None, typer.Argument(metavar="[STAGE]...", help="Default: every stage.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Also replace files that have changed since.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
) -> None:
    """Bring back the missing files of the last good runs (those in dvc.lock) from DVC's cache, each proven by its hash.

    It changes no file that is there (without --force), and runs nothing. Exit code 1 if something could not be brought back.
    """
    root = project_root()
    from retune.dvc_files import read_lock

    locked = read_lock(root)
    names = choose_stages(locked, stages or [])
    refuse_running(root)
    plan = [look_at_outputs(root, name, locked[name], changes) for name, changes in read_changes(root, names).items()]
    bring_back(root, plan, locked, force=force)
    came = [stage for stage in plan if any(output.state == "back" for output in stage.outputs)]
    now = read_changes(root, [stage.stage for stage in came]) if came else {}
    for stage in came:
        stage.since = list(describe_differences(now[stage.stage]))
    tell(plan, as_json=as_json)
    # a file that somebody has changed on purpose is no failure, unless it was asked for
    if any(output.problem and (stages or output.state != "changed") for stage in plan for output in stage.outputs):
        raise typer.Exit(1)


def choose_stages(locked: Mapping[str, Any], asked: list[str]) -> list[str]:
    """The stages that were asked for, or all that dvc.lock has. Ends the program if there is none such."""
    if not locked:
        give_up("dvc.lock names no stage yet: nothing has run here, so there is nothing to bring back")
    unknown = [stage for stage in asked if stage not in locked]
    if unknown:
        give_up(
            f"dvc.lock has no {', '.join(unknown)}: a stage that never ended well has no files to bring back; it has {', '.join(locked)}"
        )
    return asked or list(locked)


def refuse_running(root: Path) -> None:
    """End the program while a DVC command runs here.

    DVC takes its lock again when a stage's command has ended, with 3 s of patience: a checkout of gigabytes at that moment
    would cost it the training.
    """
    from retune.doctor.repository import check_locks

    for finding in check_locks(root / ".dvc" / "tmp"):
        if finding.state != "ok":
            give_up(
                f"DVC locks are {finding.found}: {'restore when it has ended' if finding.state == 'warning' else finding.todo}"
            )


def read_changes(root: Path, names: list[str]) -> dict[str, list[Any]]:
    """{stage: what `dvc status` says of it}. Ends the program if DVC does not say."""
    try:
        found = dvc_status(root, *names)
    except ValueError as error:
        give_up(f"DVC cannot say what is missing: {error}")
    return {name: found.get(name, []) for name in names}


def look_at_outputs(root: Path, name: str, entry: Mapping[str, Any], changes: list[Any]) -> RestoredStage:
    """How each output of a stage is."""
    from retune.restore.dvc_cache import only_lacks

    states: dict[str, str] = {}
    for change in changes:
        states |= change.get("changed outs", {}) if isinstance(change, dict) else {}
    outputs = []
    for out in entry.get("outs", []):
        path = out["path"]
        if not (root / path).exists():
            state = "missing"
        elif states.get(path) in (None, "not in cache"):
            state = "there"
        else:
            state = "partly" if only_lacks(root, out) else "changed"
        outputs.append(RestoredOutput(path, state))
    return RestoredStage(name, outputs)


def bring_back(root: Path, plan: list[RestoredStage], locked: Mapping[str, Any], *, force: bool) -> None:
    """Put every output that is not there into place, or note what is in the way."""
    from retune.restore.dvc_cache import read_uncached

    outside = read_uncached(root)
    wanted = []
    for stage in plan:
        entries = {out["path"]: out for out in locked[stage.stage].get("outs", [])}
        for output in stage.outputs:
            if output.state == "changed" and not force:
                output.problem = "is there with other content; --force replaces it"
            elif output.state != "there" and output.path in outside:
                bring_from_git(root, stage.stage, output, entries[output.path])
            elif output.state != "there":
                wanted += bring_later(root, stage.stage, output, entries[output.path])
    if wanted:
        check_out(root, wanted, force=force)


def bring_from_git(root: Path, stage: str, output: RestoredOutput, entry: Mapping[str, Any]) -> None:
    """An output that DVC is told not to keep."""
    from retune.restore.dvc_cache import restore_from_git

    if restore_from_git(root, entry):
        output.state = "back"
    else:
        output.problem = f"is not kept by DVC, and git has it not; `dvc repro {stage}` makes it again"


def bring_later(root: Path, stage: str, output: RestoredOutput, entry: Mapping[str, Any]) -> list[RestoredOutput]:
    """The output for the checkout, if all of it is whole in the cache."""
    from retune.restore.dvc_cache import find_problem

    output.problem = find_problem(root, stage, entry)
    return [] if output.problem else [output]


def check_out(root: Path, wanted: list[RestoredOutput], *, force: bool) -> None:
    """Have DVC write outputs from its cache. Ends the program with DVC's words if it does not."""
    result = run_dvc(root, "checkout", *(["--force"] if force else []), *(output.path for output in wanted))
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    if result.returncode != 0 or not all((root / output.path).exists() for output in wanted):
        give_up(f"dvc checkout: {lines[-1].removeprefix('ERROR: ') if lines else 'a file did not come back'}")
    for output in wanted:
        output.state = "back"


def describe_differences(changes: list[Any]) -> Iterator[str]:
    """What a stage's files in dvc.lock were made from and is no longer so."""
    for change in changes:
        if isinstance(change, str):
            yield "its command in dvc.yaml" if change == "changed command" else change
            continue
        for path, state in change.get("changed deps", {}).items():
            if isinstance(state, dict):
                yield f"{', '.join(state)} in {path}"
            else:
                yield f"{path} (not there)" if state == "deleted" else path


def tell(plan: list[RestoredStage], *, as_json: bool) -> None:
    """What came back, what cannot, and what has changed since those files were made."""
    if as_json:
        print_json({"stages": [asdict(stage) for stage in plan]})
        return
    back = False
    for stage in plan:
        for output in stage.outputs:
            if output.state == "back":
                print(f"{stage.stage}: {output.path} is back")
            elif output.problem:
                print(f"{stage.stage}: {output.path} {output.problem}")
        came = any(output.state == "back" for output in stage.outputs)
        if came and stage.since:
            print(
                f"  it is what {stage.stage} made before these changed: {', '.join(stage.since)}; `dvc repro {stage.stage}` makes it anew"
            )
        back = back or came
    if not back and not any(output.problem for stage in plan for output in stage.outputs):
        print("nothing is missing")
