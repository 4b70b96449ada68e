"""`retune run`: the pipeline on a snapshot of the project, so that nothing that is edited meanwhile gets into it."""

import sys
from typing import Annotated

import typer

from retune.project import give_up, project_root


def run(
    stages: Annotated[
        list[str] | None, typer.Argument(metavar="[STAGE]...", help="With what stands before it. Default: every stage.")
    ] = None,
) -> None:
    """Run what changed, as `dvc repro` does, but on a snapshot: edit params, code and data meanwhile, the next run takes them.

    What a stage has made is in data/ and dvc.lock when it has ended; a stage that fails leaves there what was there. One run at a time:
    a second one waits. Exit code 0: all is up to date; 1: a stage failed, or its results could not be brought home; 130: Ctrl-C.
    """
    from flows.dag import with_upstream
    from flows.run import begin_run, carry_out_run, carry_out_stage
    from stages.core.interrupts import INTERRUPTED, take_interrupts

    home = project_root().resolve()
    take_interrupts()
    try:
        with begin_run(home, say) as under_way:
            dag = under_way.snapshot.dag
            unknown = [name for name in stages or [] if name not in dag]
            if unknown:
                give_up(f"dvc.yaml has no {', '.join(unknown)}; it has {', '.join(dag)}")

            def carry_out(stage: str, _: tuple[str, ...]) -> tuple[str, str]:
                outcome = carry_out_stage(under_way, stage, say)
                return outcome.state, outcome.message

            wrong = carry_out_run(under_way, with_upstream(dag, stages or dag), carry_out, say)
    except ValueError as error:
        give_up(str(error))
    except KeyboardInterrupt:
        typer.echo(
            "retune: interrupted; what has ended is in data/, the rest is there as before, and the next run goes on from it",
            err=True,
        )
        raise typer.Exit(INTERRUPTED) from None
    for text in wrong:
        typer.echo(text, err=True)
    if wrong:
        raise typer.Exit(1)


def say(line: str) -> None:
    """Print a line at once; what the terminal's encoding cannot write is escaped."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    print(line, flush=True)
