"""`retune restore`: the last good files of a stage, back from DVC's cache.

DVC deletes a stage's outputs before it runs it, so a run that fails takes the former files with it. dvc.lock still names them, and
the cache still holds them. DVC believes sizes and times, of the files and of its cache; here what is there is hashed, every object is hashed
before its file is brought back, and the file after it.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retune.project import dvc_status, give_up, print_json, project_root, run_dvc
from stages.core.value_differences import show_text

if TYPE_CHECKING:
    from retune.verify.locked import LockedPath
    from retune.verify.seen import Seen
    from stages.dvc_lock.lock import LockedStage


@dataclass
class RestoredOutput:
    """One output of a stage, and what became of it."""

    path: str
    state: str
    """`there`, `missing`, `partly` (nothing but missing files), `changed`; afterwards perhaps `back`."""
    problem: str = ""
    """Why it is not brought back."""
    mended: list[str] = field(default_factory=list)
    """Files of it whose objects in the cache were damaged or gone, and were made again of the files."""


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

    What is there is hashed, whatever its size and time say. It changes no file that is there (without --force), and runs nothing. With --force
    it also looks at the cache of what is as it was: what is damaged or gone there is made again of the files. Exit code 1 if something could
    not be brought back.
    """
    root = project_root()
    locked = read_lock(root)
    names = choose_stages(locked, stages or [])
    refuse_running(root)
    from retune.dvc_files import find_cache
    from retune.verify.locked import list_outs
    from retune.verify.seen import hash_project

    outs = {name: list_outs(locked[name]) for name in names}
    seen = hash_project(root, find_cache(root), locked, [out.path for listed in outs.values() for out in listed])
    plan = [look_at_outputs(seen, name, outs[name]) for name in names]
    bring_back(seen, plan, outs, force=force)
    came = [stage for stage in plan if any(output.state == "back" for output in stage.outputs)]
    now = read_changes(root, [stage.stage for stage in came]) if came else {}
    for stage in came:
        stage.since = list(describe_differences(now[stage.stage]))
    tell(plan, as_json=as_json)
    # a file that somebody has changed on purpose is no failure, unless it was asked for
    if any(
        output.problem and (stages or force or output.state != "changed") for stage in plan for output in stage.outputs
    ):
        raise typer.Exit(1)


def read_lock(root: Path) -> "dict[str, LockedStage]":
    """{stage: its entry in dvc.lock}; empty without the file. Ends the program for a file that is none."""
    from stages.core.errors import StageError
    from stages.dvc_lock.lock import LOCK, read_locked_stages

    try:
        return read_locked_stages(root) if (root / LOCK).is_file() else {}
    except StageError as error:
        give_up(f"{error}; `git checkout -- {LOCK}` brings back what was committed")


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


def look_at_outputs(seen: "Seen", name: str, outs: "list[LockedPath]") -> RestoredStage:
    """How each output of a stage is, by its bytes."""
    outputs = []
    for out in outs:
        listing = seen.known_listing(out)
        if not (seen.root / out.path).exists():
            state = "missing"
        elif seen.digest(out.path) == out.md5:
            state = "there"
        else:
            there = {path: one.md5 for path, one in seen.below(out.path).items()}
            lacks = listing is not None and out.path in seen.folders and there.items() <= listing.items()
            state = "partly" if lacks and not seen.has_unread(out.path) else "changed"
        outputs.append(RestoredOutput(out.path, state))
    return RestoredStage(name, outputs)


def bring_back(seen: "Seen", plan: list[RestoredStage], outs: "Mapping[str, list[LockedPath]]", *, force: bool) -> None:
    """Put every output that is not there into place, or note what is in the way."""
    from retune.restore.dvc_cache import read_uncached

    outside = read_uncached(seen.root)
    wanted = []
    for stage in plan:
        entries = {out.path: out for out in outs[stage.stage]}
        for output in stage.outputs:
            out = entries[output.path]
            if output.state == "changed" and not force:
                output.problem = "is there with other content; --force replaces it"
            elif output.path in outside:
                if output.state != "there":
                    bring_from_git(seen.root, stage.stage, output, out)
            elif output.state != "there":
                wanted += bring_later(seen, stage.stage, output, out, force=force)
            elif force:
                mend(seen, stage.stage, output, out)
    if wanted:
        check_out(seen, wanted, {out.path: out for listed in outs.values() for out in listed}, force=force)


def bring_from_git(root: Path, stage: str, output: RestoredOutput, out: "LockedPath") -> None:
    """An output that DVC is told not to keep."""
    from retune.restore.dvc_cache import restore_from_git

    if restore_from_git(root, out):
        output.state = "back"
        return
    output.problem = f"is not kept by DVC, and git has it not; `dvc repro {stage}` makes it again"
    let_dvc_look(root / output.path)


def let_dvc_look(path: Path) -> None:
    """Move the times of what lies there, so that DVC hashes it: it would believe that nothing has changed."""
    for file in (path, *path.rglob("*")) if path.is_dir() else (path,):
        if file.is_file():
            os.utime(file)


def bring_later(
    seen: "Seen", stage: str, output: RestoredOutput, out: "LockedPath", *, force: bool
) -> list[RestoredOutput]:
    """The output for the checkout, if all of it is whole in the cache."""
    from retune.restore.dvc_cache import look_at_objects

    if force:
        mend(seen, stage, output, out)
    else:
        output.problem = look_at_objects(seen, out).problem(seen.root, seen.store, stage)
    if output.problem and output.state == "changed":
        let_dvc_look(seen.root / output.path)
    return [] if output.problem else [output]


def mend(seen: "Seen", stage: str, output: RestoredOutput, out: "LockedPath") -> None:
    """Have the cache of an output whole, of what lies in the project; or note what is in the way."""
    from retune.restore.doubts import find_doubt
    from retune.restore.dvc_cache import look_at_objects, mend_objects

    objects = look_at_objects(seen, out)
    if not objects.damaged and not objects.lacking:
        return
    removed = set(objects.damaged)
    doubt = find_doubt(seen, out) if output.state == "there" else ""
    # without the files nothing is made of them, and what is damaged goes
    objects, output.mended = mend_objects(replace(seen, files={}) if doubt else seen, out)
    removed -= set(output.mended)
    if doubt:
        output.problem = (
            f"is not taken to mend the cache: {doubt}; `dvc repro --force --single-item {stage}` makes it anew"
        )
    elif objects.lacking:
        gone = (
            "was damaged in the cache, too, and what was wrong there is removed" if removed else "is not in the cache"
        )
        names = ", ".join(list(objects.lacking)[:3])
        output.problem = (
            f"{gone} ({names}); `dvc pull {stage}` if you have a remote, else `dvc repro {stage}` makes it again"
        )


def check_out(seen: "Seen", wanted: list[RestoredOutput], outs: "Mapping[str, LockedPath]", *, force: bool) -> None:
    """Have DVC write outputs from its cache, and hash them. Ends the program with DVC's words if it does not write."""
    from retune.restore.dvc_cache import find_wrong_files
    from retune.verify.seen import hash_project

    for output in wanted:
        if output.state == "changed":
            # DVC would leave a file alone whose size and time are as they were
            for file in find_wrong_files(seen, outs[output.path], seen.known_listing(outs[output.path]) or {}):
                file.unlink()
    result = run_dvc(seen.root, "checkout", *(["--force"] if force else []), *(output.path for output in wanted))
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    if result.returncode != 0 or not all((seen.root / output.path).exists() for output in wanted):
        give_up(f"dvc checkout: {lines[-1].removeprefix('ERROR: ') if lines else 'a file did not come back'}")
    after = hash_project(seen.root, seen.store, seen.locked, [output.path for output in wanted])
    for output in wanted:
        if after.digest(output.path) == outs[output.path].md5:
            output.state = "back"
        else:
            output.problem = "was written by dvc checkout and is still not what dvc.lock names: look at the disk (`retune verify --deep`)"


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
            if output.mended:
                names = ", ".join(output.mended[:3]) + (" ..." if len(output.mended) > 3 else "")  # noqa: PLR2004
                print(show_text(f"{stage.stage}: the cache of {output.path} is mended ({names})"))
            if output.state == "back":
                print(show_text(f"{stage.stage}: {output.path} is back"))
            elif output.problem:
                print(show_text(f"{stage.stage}: {output.path} {output.problem}"))
        came = any(output.state == "back" for output in stage.outputs)
        if came and stage.since:
            since = show_text(", ".join(stage.since))
            print(
                f"  it is what {stage.stage} made before these changed: {since}; `dvc repro {stage.stage}` makes it anew"
            )
        back = back or came or any(output.mended for output in stage.outputs)
    if not back and not any(output.problem for stage in plan for output in stage.outputs):
        print("nothing is missing")
