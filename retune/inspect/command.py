"""`retune inspect`: what Retune recognizes in a dataset, and what it would make of it, before anything is changed."""

import os
import re
import traceback
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from retune.project import project_root

KEPT, ALL_REJECTED, REFUSED = 0, 3, 2
EXAMPLES = 10


def inspect(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE | FOLDER | OWNER/NAME | demo]",
            help="A dataset: a file, a folder of shards, or one of the hub. None: the sources of params.yaml.",
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of a hub dataset: the commit, 40 hex characters.")] = None,
    config: Annotated[str | None, typer.Option(help="Of a hub dataset or a folder: its config (subset).")] = None,
    split: Annotated[str | None, typer.Option(help="Of a hub dataset or a folder: its split, such as train.")] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="prompt=COLUMN,answer=COLUMN[,system=COLUMN] | messages=COLUMN",
            help="Which columns hold what, where looking cannot tell.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="With this param in place of the one in params.yaml."),
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="A quick look: so many rows from the beginning.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
) -> None:
    """Say what is recognized in a dataset, show ten rows as they will be trained, and count what becomes of the rest.

    The very stages do it, with the params of this project, in a temporary folder: nothing is changed.

    Exit code: 0 recognized, and some row is kept; 3 recognized, and every row is rejected; 2 not recognized, refused or unreadable, or
    `template` refuses its params.
    """
    root = project_root()
    from retune.inspect.trial_run import find_untried
    from stages.core.errors import StageError

    stand_in = None
    try:
        values = override_params(root, source, overrides or [])
        path, sources = choose_source(
            root, source, {"revision": revision, "config": config, "split": split}, columns, values
        )
        stand_in = sources[0]["source"] if path is not None else None
        limit = rows if source or rows else values["fetch_data"].get("limit")
        found = try_source(root, path, sources, values, limit)
        if stand_in:  # not the place in data/custom where `retune use` would bring it
            found["sources"][0]["source"] = source
    except StageError as error:
        refuse(str(error).replace(stand_in, str(source)) if stand_in else str(error))
    except (OSError, MemoryError) as error:
        refuse(f"{source or 'the source'} cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}")
    except typer.Exit:  # what was wrong has been said
        raise typer.Exit(REFUSED) from None
    except Exception as error:  # noqa: BLE001 - the last word is ours: a traceback may quote the dataset
        refuse(
            f"{type(error).__name__} {locate(error)}: this is a fault of Retune, not of the data; please report it with this line"
        )
    kept = found["rows"]["train"] + found["rows"]["heldout"]
    found["rows_limit"] = limit
    found["untried"] = find_untried(root)
    keys = {"config": config, "split": split} if source else {}
    changes = [*(f"fetch_data.sources.0.{key}={value}" for key, value in keys.items() if value), *(overrides or [])]
    options = [
        *(["--columns", columns] if columns else []),
        *(part for text in changes for part in ("--set", text)),
    ]
    show(found, source, options, as_json=as_json)
    if found["tokenizer"] and found["no_tokens"]:
        raise typer.Exit(REFUSED)
    raise typer.Exit(KEPT if kept else ALL_REJECTED)


def refuse(message: str) -> NoReturn:
    """Say on stderr why there is nothing to tell, and end with exit code 2."""
    from stages.reporting.token_view import visible

    typer.echo(f"retune: {visible(message)}", err=True)
    raise typer.Exit(REFUSED)


def locate(error: BaseException) -> str:
    """The place in our code that an error came from: its text may quote a dataset, its place does not."""
    code = Path(__file__).parents[2]
    trace = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    # what happened in the stage's own process is a text
    lines = re.findall(r'File "([^"]+)", line (\d+)', str(error.__cause__ or ""))
    places = [(Path(file), line) for file, line in [*trace, *lines]]
    ours = [
        (path.relative_to(code), line)
        for path, line in places
        if any(path.is_relative_to(code / package) for package in ("retune", "stages"))
    ]
    return f"in {ours[-1][0].as_posix()}, line {ours[-1][1]}"


def override_params(root: Path, source: str | None, overrides: list[str]) -> dict[str, Any]:
    """params.yaml with what `--set` says. Raises StageError if it names no param."""
    from retune.use.overrides import apply_overrides
    from stages.core.errors import StageError
    from stages.core.params import read_params

    values = read_params(root / "params.yaml")
    if source and any(text.startswith("fetch_data.") for text in overrides):
        raise StageError(
            "--set fetch_data...: speaks of the sources of params.yaml; leave it out, or leave the source out"
        )
    return apply_overrides((root / "params.yaml").read_text(encoding="utf-8"), overrides)[0] if overrides else values


def choose_source(
    root: Path, source: str | None, keys: dict[str, str | None], columns: str | None, values: dict[str, Any]
) -> tuple[Path | None, list[dict[str, Any]]]:
    """(the file or folder, what stands for fetch_data.sources). Raises StageError if there is no such source."""
    from retune.use.copying import name_of, read_columns
    from stages.core.errors import StageError
    from stages.core.params import section_params
    from stages.fetch_data import FetchDataParams
    from stages.fetching.hub import REPO_ID
    from stages.fetching.source_files import CUSTOM, DEMO

    if source is None:
        if columns or any(keys.values()):
            raise StageError("--columns, --split, --config and --revision speak of a source: name it")
        section_params(FetchDataParams, "fetch_data", values)
        return None, values["fetch_data"]["sources"]
    mapping = None if columns is None else read_columns(columns)
    params = {**keys, "columns": mapping, "weight": None, "max_rows": None}
    path = next((place for place in (Path(source), root / source) if place.exists()), None)
    if source == DEMO:
        return None, [check_source({"source": DEMO, **params}, source)]
    if path is not None:
        if path.is_dir() and root.resolve().is_relative_to(path.resolve()):
            raise StageError(f"{source}: this project lies in that folder; name a folder of data")
        return path.absolute(), [check_source({"source": f"{CUSTOM}{name_of(path)}", **params}, source)]
    if re.match(r"[a-z]+://", source):
        raise StageError(f"{source} is an address: download the file first, or name a dataset of the hub as OWNER/NAME")
    if not REPO_ID.fullmatch(source):
        raise StageError(f"{source}: no such file or folder, and no dataset of the hub (OWNER/NAME)")
    if keys["revision"] is None:
        raise StageError(
            f"{source}: no such file or folder here. If it is a dataset of the hub, say which commit (--revision, 40 hex characters, "
            "from its page: a branch may move) and which --split"
        )
    return None, [check_source({"source": source, **params}, source)]


def check_source(params: dict[str, Any], source: str) -> dict[str, Any]:
    """What the command line says of a source. Raises StageError, in words of the command line, if it is not right."""
    from stages.core.errors import StageError
    from stages.core.params import section_problems
    from stages.fetch_data import FetchDataParams

    problems = section_problems(FetchDataParams, "", {"sources": [params], "limit": None})
    if problems:
        raise StageError(
            f"{source}: " + "; ".join(problem.removeprefix(".sources.0").lstrip(".: ") for problem in problems)
        )
    return params


def try_source(
    root: Path, path: Path | None, sources: list[dict[str, Any]], values: dict[str, Any], limit: int | None
) -> dict[str, Any]:
    """What the stages make of the sources. Raises StageError where they refuse them."""
    from retune.inspect.findings import collect_findings
    from retune.inspect.trial_run import put_in_place, try_stages
    from stages.dataset_files.excel_rows import describe_sheets
    from stages.dataset_files.file_kinds import EXCEL, ending_of
    from stages.dataset_files.reader import find_separator

    # the stages' scratch folder is the project's
    os.chdir(root)
    with put_in_place(root, path) as custom, try_stages(root, custom, sources, limit, values) as made:
        found = collect_findings(made, EXAMPLES, values)
        for one in found["sources"]:
            paths = [(custom / name, name) for name in one["files"] if not one["revision"]]
            kinds = [find_separator(place, name) for place, name in paths if place.is_file()]
            one["separators"] = sorted({kind for kind in kinds if kind})
            books = [(place, name) for place, name in paths if ending_of(name) in EXCEL and place.is_file()]
            one["sheets"] = {name: said for place, name in books if (said := describe_sheets(place, name))}
        return found


def show(found: dict[str, Any], source: str | None, options: list[str], *, as_json: bool) -> None:
    """Print what was found."""
    from retune.inspect.printing import lines
    from retune.terminal import has_colour, json_runs, say, say_json

    if as_json:
        say_json({**found, "examples": [{**row, "runs": json_runs(row["runs"])} for row in found["examples"]]})
        return
    for line in lines(found, source, options, colour=has_colour()):
        say(line)
