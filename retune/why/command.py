"""`retune why`: which file, param, input or output makes a stage run. DVC names a package only; this names the file in it."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Annotated

import typer

from retune.project import dvc_status, give_up, print_json, project_root
from retune.why.explain import Explanation, explain
from stages.core.value_differences import show_text


def why(
    stages: Annotated[
        list[str] | None, typer.Argument(metavar="[STAGE]...", help="Stages of dvc.yaml. None: all of them.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
) -> None:
    """Say what `dvc repro` would run and why: file by file, key by key, with old and new values. It runs and changes nothing.

    A stage that would run only if one before it gives other outputs is named as such.
    """
    root = project_root()
    from flows.dag import read_dag

    try:
        status, dag = dvc_status(root), read_dag(root)
    except ValueError as error:
        give_up(str(error))
    if not dag:
        give_up("dvc.yaml declares no stage: `git checkout -- dvc.yaml` brings back what was committed")
    unknown = [stage for stage in stages or [] if stage not in dag]
    if unknown:
        give_up(f"dvc.yaml has no stage {', '.join(unknown)}; it has {', '.join(dag)}")
    found = explain(root, status, dag)
    asked = {stage: one for stage, one in found.items() if not stages or stage in stages}
    if as_json:
        print_json({"stages": {stage: {"runs": runs(one), **asdict(one)} for stage, one in asked.items()}})
        return
    lines = list(describe(found, asked, name_all=bool(stages)))
    print("\n".join(map(show_text, lines)) if lines else "Nothing would run.")


def runs(one: Explanation) -> str:
    """`yes`, `perhaps` (if a stage before it gives other outputs) or `no`."""
    return "yes" if one.causes else "perhaps" if one.after else "no"


def describe(found: Mapping[str, Explanation], asked: Mapping[str, Explanation], *, name_all: bool) -> Iterator[str]:
    """One line a cause; of a stage that waits, for which stages, and why those run where that is not among the lines."""
    for stage, one in asked.items():
        yield from (f"{stage}: {cause.text}" for cause in one.causes)
        if one.causes:
            continue
        if one.after and not all(name in asked for name in one.after):
            for name in one.after:
                first, *more = found[name].causes
                rest = f", and {len(more)} more" if more else ""
                yield f"{stage}: waits for {name}, which will run because {with_subject(name, first.text)}{rest}"
            yield f"{stage}: would run after {join_names(one.after)} if the outputs differ"
        elif one.after:
            yield f"{stage}: would run after {join_names(one.after)} if the outputs differ"
        elif name_all:
            yield f"{stage}: would not run; nothing has changed"


def with_subject(stage: str, text: str) -> str:
    """A cause's text after `because`."""
    return f"it {text}" if text == "has not run yet" else text.replace("its command", f"the command of {stage}", 1)


def join_names(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
