"""`retune use`: make a preset, with overrides, your own data or your own model, the params.yaml of the next run."""

import difflib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_origin

import typer

from retune.project import dvc_status, give_up, print_json, project_root
from retune.use.copying import brought, data_override, model_overrides, replaced
from retune.use.first_look import unrecognized
from retune.use.reminders import reminders


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
        list_presets(root, as_json)
        return
    from stages.check import problems

    parameters = root / "params.yaml"
    source = find_preset(root, preset) if preset is not None else parameters
    if not source.is_file():
        give_up("there is no params.yaml yet: name a preset (`retune use` lists them)")
    bring = data or []
    chosen = [*data_override(root, bring, columns or []), *model_overrides(root, model), *(overrides or [])]
    values, text = changed_params(source.read_text(encoding="utf-8"), chosen)
    before = parameters.read_text(encoding="utf-8") if parameters.is_file() else ""
    others = replaced(root, bring)
    with brought(root, bring, model) as keep:
        found = problems(values, root)
        if not found and not force:
            found = unrecognized(root, bring, values)
        if found and as_json:
            print_json({"problems": found})
            raise typer.Exit(1)
        if found:
            give_up("nothing was written:\n  " + "\n  ".join(found))
        write_params(parameters, text)
        keep()
    changed = differences(plain(before), values)
    answer(root, changed, others, reminders(changed, values), as_json)


def list_presets(root: Path, as_json: bool) -> None:
    """Print each preset with the first line of its comment."""
    presets = {path.stem: first_comment(path) for path in sorted((root / "presets").glob("*.yaml"))}
    if as_json:
        print_json({"presets": presets})
        return
    for name, comment in presets.items():
        print(f"{name:32}  {comment}".rstrip())
    print("\n`retune use NAME` makes one of them params.yaml.")


def first_comment(path: Path) -> str:
    """The first comment of a YAML file, one line."""
    with path.open(encoding="utf-8") as file:
        return next((line.lstrip("#").strip() for line in file if line.startswith("#")), "")


def find_preset(root: Path, name: str) -> Path:
    """The file of a preset. Ends the program, with near names, if there is none."""
    found = next((path for path in (root / "presets" / f"{name}.yaml", Path(name)) if path.is_file()), None)
    if found is None:
        known = sorted(path.stem for path in (root / "presets").glob("*.yaml"))
        near = difflib.get_close_matches(name, known, n=3)
        give_up(
            f"no preset {name}; " + (f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known)}")
        )
    return found


def changed_params(text: str, overrides: list[str]) -> tuple[dict[str, Any], str]:
    """(values, text) of a params file with overrides; the text keeps its comments, and is as it was if there are none.

    Ends the program if the text is not YAML or an override names no key.
    """
    if not overrides:
        return plain(text), text
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.representer import RoundTripRepresenter
    from ruamel.yaml.util import load_yaml_guess_indent

    class NullIsNull(RoundTripRepresenter):
        """Writes null as `null`: an empty value looks forgotten."""

    NullIsNull.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    plain(text)  # for its message
    yaml = YAML()
    yaml.Representer = NullIsNull
    yaml.width, yaml.preserve_quotes = 4096, True
    tree, indent, block = load_yaml_guess_indent(text, yaml=yaml)
    yaml.indent(mapping=2, sequence=indent or 2, offset=block or 0)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            give_up(f"--set {override}: write it as section.key=value")
        try:
            set_value(tree, key, YAML().load(value))
        except YAMLError:
            give_up(f"--set {override}: the value is not YAML")
    out = io.StringIO()
    yaml.dump(tree, out)
    return plain(out.getvalue()), out.getvalue()


def set_value(tree: Any, key: str, value: object) -> None:  # noqa: ANN401 - YAML as it comes
    """Set the param named `section.key` (or deeper; in a list by its number). Ends the program, with near names, if there is none."""
    parts = key.split(".")
    place = tree
    for part in parts[:-1]:
        place = inside(place, part)
    last = place_in(place, parts[-1])
    if last is None and len(parts) > 1 and isinstance(place, Mapping) and takes_any_key(parts[:-1]):
        last = parts[-1]
    if len(parts) == 1 or last is None:
        known = list(leaves(tree))
        alike = [name for name in known if name.endswith(f".{parts[-1]}")]
        beside = [name for name in alike if name.startswith(f"{parts[0]}.")]
        near = (beside or difflib.get_close_matches(key, known, n=3) or alike)[:3]
        give_up(f"--set {key}: no such param" + (f"; did you mean {' or '.join(near)}?" if near else ""))
    place[last] = value


def takes_any_key(parts: list[str]) -> bool:
    """Whether the param of this name is a mapping whose keys the user chooses, such as the floors in `audit.gguf`."""
    from pydantic import BaseModel

    from stages.check import read_sections

    kind: Any = read_sections().get(parts[0])
    for part in parts[1:]:
        fields = kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else {}
        if part not in fields:
            return False
        kind = fields[part].annotation
    return get_origin(kind) is dict


def inside(place: Any, part: str) -> Any:  # noqa: ANN401 - YAML as it comes
    """What a mapping or list has under a part of a param's name; None if nothing."""
    found = place_in(place, part)
    return None if found is None else place[found]


def place_in(place: object, part: str) -> str | int | None:
    """The key or index that a part of a param's name stands for; None if there is no such."""
    if isinstance(place, Mapping) and part in place:
        return part
    if isinstance(place, list) and part.isdecimal() and int(part) < len(place):
        return int(part)
    return None


def plain(text: str) -> dict[str, Any]:
    """The values of a params file. Ends the program if it is not one."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        values = YAML(typ="safe", pure=True).load(text) or {}
    except YAMLError as error:
        give_up(f"not valid YAML: {error}")
    if not isinstance(values, dict):
        give_up("a params file is a mapping of sections")
    return values


def leaves(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """{section.key: value}, however deep; a list of mappings by its numbers from 0, another list is a value."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        of_mappings = isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value)
        inner = {str(number): item for number, item in enumerate(value)} if of_mappings else value
        if isinstance(inner, Mapping) and inner:
            found |= leaves(inner, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, list[Any]]:
    """{section.key: [old, new]} of what differs; [old] alone or [null, new] where a key went or came."""
    before, after = leaves(old), leaves(new)
    names = [*after, *(name for name in before if name not in after)]
    return {
        name: [before.get(name), after.get(name)]
        for name in names
        if before.get(name) != after.get(name) or (name in before) != (name in after)
    }


def write_params(path: Path, text: str) -> None:
    """Write params.yaml by a temporary name and a rename."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    temporary.replace(path)


def answer(root: Path, changed: dict[str, list[Any]], others: list[str], reminded: list[str], as_json: bool) -> None:
    """Say what changed in params.yaml, what was replaced in data/custom, what to think of, and what the next `dvc repro` will do."""
    try:
        stages = dvc_status(root)
        note = None
    except ValueError as error:
        stages, note = {}, f"what will run is unknown: {error}"
    runs, then = after(root, set(stages)) if stages else ([], [])
    if as_json:
        print_json(
            {"changed": changed, "replaced": others, "reminders": reminded, "runs": runs, "then": then, "note": note}
        )
        return
    # a key that came or went with the rest of its mapping, and was null, tells nothing
    told = {name: values for name, values in changed.items() if values[0] != values[1]}
    print("params.yaml: " + (f"{len(told)} changed" if told else "as it was"))
    for name, (old, new) in told.items():
        print(f"  {name}: {show(old)} -> {show(new)}")
    for name in others:
        print(f"{name} was replaced: it held something else")
    for line in reminded:
        print(f"note: {line}")
    if note:
        print(note)
    elif runs:
        print(f"`dvc repro` will run {', '.join(runs)}")
        if then:
            print(f"and, where these give other outputs, {', '.join(then)}")
    else:
        print("`dvc repro` has nothing to do")


def after(root: Path, changed: set[str]) -> tuple[list[str], list[str]]:
    """(the changed stages, the stages behind them), in the order of the pipeline."""
    from flows.dag import downstream, read_dag

    dag = read_dag(root)
    # the output of `check` never changes, so nothing runs because of it
    reached = downstream(dag, changed - {"check"})
    return [stage for stage in dag if stage in changed], [stage for stage in reached if stage not in changed]


def show(value: object) -> str:
    """A value as YAML writes it, near enough for a line."""
    return (
        {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else str(value)
    )
