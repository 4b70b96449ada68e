"""`retune verify`: hash everything again and hold it against what was written down."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from retune.project import find_root, print_json
from retune.verify.kinds import KINDS, Difference, Verified
from stages.core.value_differences import show_text

SAME, DIFFERENT, WRONG_USE = 0, 1, 2


def verify(
    deep: Annotated[
        bool, typer.Option("--deep", help="Also every object of DVC's cache that dvc.lock names, and the run cache.")
    ] = False,
    remote: Annotated[
        bool,
        typer.Option(
            "--remote",
            help="Also every object that dvc.lock names on the default remote: all of it is read from there.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
    kinds: Annotated[bool, typer.Option("--kinds", help="List the kinds of differences, and end.")] = False,
) -> None:
    """Hash everything again, whatever sizes and times say, and name what is not as it was written down.

    What stages wrote and read (outputs, records, your sources in data/, code, pins) is held against dvc.lock by md5 and against the records
    by sha256; dvc.lock, dvc.yaml, params.yaml, records, verdict, gate and execution records against each other. Nothing is changed, and
    DVC's memory of sizes and times is not asked. Files that dvc.lock does not name are not looked at, but in folders of it.

    Exit code 0: all is as it was; 1: differences, each with its kind and what to do; 2: it cannot be looked at.
    """
    if kinds:
        print_kinds(as_json=as_json)
        return
    root = find_root()
    if root is None:
        stop("no dvc.yaml here or above: call retune in the project's folder")
    from retune.doctor.repository import check_locks
    from retune.dvc_files import find_cache
    from retune.verify.project import verify_project
    from stages.core.errors import StageError

    running = [show_text(one.found) for one in check_locks(root / ".dvc/tmp") if one.state == "warning"]
    try:
        store = find_cache(root)
        objects = open_default_remote(root) if remote else None
        found = verify_project(root, store, deep=deep, remote=objects)
    except StageError as error:
        stop(str(error))
    except typer.Exit:  # find_cache has said why
        raise typer.Exit(WRONG_USE) from None
    if as_json:
        print_json(
            {
                "differences": [asdict(one) for one in found.differences],
                "notes": found.notes,
                "running": running,
                "files": found.files,
                "bytes": found.size,
            }
        )
    else:
        tell(found, running, deep=deep, remote=remote)
    raise typer.Exit(DIFFERENT if found.differences else SAME)


def stop(message: str) -> NoReturn:
    """Say why nothing can be looked at, and end."""
    typer.echo(f"retune: {show_text(message)}", err=True)
    raise typer.Exit(WRONG_USE)


def open_default_remote(root: Path) -> object:
    """The remote's objects; DVC is imported here alone."""
    from retune.verify.remote import open_remote

    return open_remote(root)


def print_kinds(*, as_json: bool) -> None:
    """The closed list of kinds."""
    if as_json:
        print_json(KINDS)
        return
    width = max(map(len, KINDS))
    for kind, means in KINDS.items():
        print(f"{kind:{width}}  {means}")


def tell(found: Verified, running: list[str], *, deep: bool, remote: bool) -> None:
    """For the eye: each difference with what to do, then what was looked at."""
    for held in running:
        print(f"note: {held}; what it writes meanwhile may be told as different")
    for one in found.differences:
        print(describe(one))
    for note in found.notes:
        print(f"note: {show_text(note)}")
    looked = "the project" + (", the cache" if deep else "") + (", the remote" if remote else "")
    count = len(found.differences)
    said = f"{count} difference{'s' if count != 1 else ''}" if count else "all is as it was written down"
    print(f"{said}: {looked}; {found.files:,} files, {found.size / 1e6:,.1f} MB of the project hashed")


def describe(one: Difference) -> str:
    """A difference in two lines."""
    field = f" {show_text(one.field)}" if one.field else ""
    stage = f" ({one.stage})" if one.stage else ""
    return (
        f"{one.kind}: {show_text(one.path)}{field}: {show_text(one.says)}{show_text(stage)}\n  {show_text(one.remedy)}"
    )
