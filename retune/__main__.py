"""`retune VERB`: what a person does beside `dvc repro`."""

import errno
import importlib.metadata
import tomllib
from pathlib import Path
from typing import Annotated

import typer

from retune.accept.command import accept
from retune.chat.command import chat
from retune.doctor.command import doctor
from retune.inspect.command import inspect
from retune.origin.command import origin
from retune.plan.command import plan
from retune.preview import preview
from retune.project import show_lines
from retune.push.command import push
from retune.restore.command import restore
from retune.run import run
from retune.serve import serve
from retune.summary import summary
from retune.use.command import use
from retune.verify.command import verify
from retune.why.command import why
from stages.core.errors import StageError

REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO})
"""Errors that say something of the machine, never of this code."""

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
app.command()(use)
app.command()(inspect)
app.command()(preview)
app.command()(plan)
app.command()(doctor)
app.command()(run)
app.command()(why)
app.command()(accept)
app.command()(summary)
app.command()(origin)
app.command()(verify)
app.command()(chat)
app.command()(serve)
app.command()(restore)
app.command()(push)


def print_version(asked: bool) -> None:
    """Print the version and end, if it was asked for."""
    if asked:
        try:
            print(importlib.metadata.version("retune"))
        except importlib.metadata.PackageNotFoundError:  # `python -m retune` in a checkout that is not installed
            project = Path(__file__).resolve().parents[1] / "pyproject.toml"
            print(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])
        raise typer.Exit


@app.callback()
def retune(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Retune: fine-tuning as a pipeline of cached, versioned stages. `dvc repro` runs it."""


def main() -> None:
    """Carry out the command line. What the user can mend, and what the machine refuses, ends it in one sentence; all else is a bug, and shows."""
    try:
        app(prog_name="retune")
    except StageError as error:
        said = str(error)
    except OSError as error:
        if error.errno not in REFUSED or not error.filename:
            raise
        said = f"{error.filename}: {error.strerror}; mend that (rights, a read-only file system, room on the disk), then call it again"
    else:
        return
    typer.echo(f"retune: {show_lines(said)}", err=True)
    raise SystemExit(1)


if __name__ == "__main__":
    main()
