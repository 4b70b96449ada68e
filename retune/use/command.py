"""`retune use`: make a preset, with overrides, your own data or your own model, the params.yaml of the next run."""

from pathlib import Path
from typing import Annotated

import typer

from retune.project import give_up, print_json, project_root
from retune.use.copying import bring_files, find_replaced, override_base, override_sources
from retune.use.first_look import find_unrecognized, look_at_template
from stages.core.value_differences import show_text


def use(
    preset: Annotated[
        str | None, typer.Argument(help="A name in presets/, or a params file. None: keep params.yaml.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SECTION.KEY=VALUE",
            help="Change one param; the value is YAML. In a list, the key is a number from 0: fetch_data.sources.0.max_rows=100.",
        ),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE_OR_FOLDER",
            help="Bring this dataset into data/custom/ and use it in place of the params' sources. Several: a mixture.",
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="prompt=COLUMN,answer=COLUMN[,system=COLUMN] | messages=COLUMN | -",
            help="Which columns of --data hold what, where looking cannot tell. With several --data, one for each, in their order; - where looking tells.",
        ),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Bring this model folder into data/custom_base/ and use it.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Bring --data even where no layout is recognized in it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
) -> None:
    """Check a preset and make it params.yaml. With no argument: list the presets.

    Everything is checked before anything is written. The answer says which params changed and which stages will run.
    """
    root = project_root()
    if preset is None and not overrides and not data and not columns and model is None:
        print_presets(root, as_json)
        return
    # here: they cost every other command a twentieth of a second
    from retune.use.changes import Changes, compare_params, tell
    from retune.use.meanings import explain
    from retune.use.overrides import apply_overrides
    from retune.use.params_text import read_values
    from retune.use.presets import find_whole, write_preset
    from retune.use.reminders import reminders
    from stages.check import problems
    from stages.core.errors import StageError

    parameters = root / "params.yaml"
    if preset is None and not parameters.is_file():
        give_up("there is no params.yaml yet: name a preset (`retune use` lists them)")
    # what is not UTF-8 is not valid YAML below
    before = parameters.read_text(encoding="utf-8", errors="surrogateescape") if parameters.is_file() else ""
    bring = data or []
    changes = [*override_sources(root, bring, columns or []), *override_base(root, model), *(overrides or [])]
    try:
        text = before if preset is None else write_preset(root, preset)
        values, text = apply_overrides(text, changes)
    except StageError as error:
        give_up(str(error))
    try:
        old = read_values(before)
    except StageError:  # a broken file is what a preset mends
        old = {}
    others = find_replaced(root, bring)
    with bring_files(root, bring, model) as keep:
        found = problems(values, root)
        if not found and not force:
            found = find_unrecognized(root, bring, values)
        if found and preset is not None:
            whole = find_whole(root, preset)
            found = [f"{line} in {whole}" if line.endswith("section is missing") else line for line in found]
        if found and as_json:
            print_json({"problems": found})
            raise typer.Exit(1)
        if found:
            give_up("nothing was written:\n  " + "\n  ".join(found))
        # a value that was written anew has lost what stood beside its keys
        write_params(parameters, explain(text, [change.partition("=")[0] for change in changes]) if changes else text)
        keep()
    changed = compare_params(old, values)
    notes = reminders(changed, values, whole=preset is not None and not changes)
    template, refused = look_at_template(root, values, changed)
    tell(root, Changes(changed, others, [*notes, *refused], template), as_json)


def print_presets(root: Path, as_json: bool) -> None:
    """Print each preset with what it is for."""
    from retune.use.presets import find_preset, list_presets, read_purpose

    presets = {name: read_purpose(find_preset(root, name)) for name in list_presets(root)}
    if as_json:
        print_json({"presets": presets})
        return
    for name, purpose in presets.items():
        print(show_text(f"{name:32}  {purpose}".rstrip()))
    print("\n`retune use NAME` makes one of them params.yaml.")


def write_params(path: Path, text: str) -> None:
    """Write params.yaml by a temporary name and a rename."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    temporary.replace(path)
