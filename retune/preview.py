"""`retune preview`: conversations of data/tokens as the model will see them."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from retune.project import give_up, project_root
from stages.core.value_differences import show_text

if TYPE_CHECKING:
    import pyarrow as pa

MOST_CHOICES = 5
"""Row ids that are named where a prefix fits several."""


class Split(StrEnum):
    """A split of data/tokens."""

    TRAIN = "train"
    HELDOUT = "heldout"


@dataclass(frozen=True)
class Place:
    """Where a row of data/tokens is."""

    split: str
    number: int


def preview(
    row: Annotated[str | None, typer.Option(help="This row: its id, or as much of it as no other row has.")] = None,
    count: Annotated[int, typer.Option("-n", min=1, help="So many rows, evenly spread over the split.")] = 5,
    split: Annotated[Split | None, typer.Option(help="Of this split [default: train].")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
) -> None:
    """Show conversations as the model will see them: decoded from the ids, what is labelled in one colour, context in another.

    Without colour (a pipe, NO_COLOR) what is labelled stands between marks. Of training rows it says how many steps of data/adapter they
    stood in.
    """
    root = project_root()
    import pyarrow as pa

    from stages.core.errors import StageError

    try:
        show(root / "data", row, count, split, as_json=as_json)
    except FileNotFoundError as error:
        missing = Path(error.filename).relative_to(root) if error.filename else "data/tokens"
        give_up(f"{missing} is not there yet: `dvc repro template` makes it")
    except (StageError, ValueError, pa.ArrowException) as error:
        give_up(str(error))


def show(data: Path, row: str | None, count: int, split: Split | None, *, as_json: bool) -> None:
    """Print the rows that were asked for. Raises FileNotFoundError and ValueError where data/tokens is not what it should be."""
    from retune.terminal import describe_origin, has_colour, heading, json_runs, legend, paint_runs, say, say_json
    from stages.contracts import tokens as contract
    from stages.contracts.messages import MESSAGES
    from stages.contracts.tokens import NOT_TRAINED
    from stages.reporting.token_view import control_ids, spread, token_runs

    tables = {name: contract.read_tokens(require(data / "tokens" / file)) for name, file in contract.SPLITS.items()}
    if row is None:
        name = split or Split.TRAIN
        places = [Place(name, number) for number in spread(tables[name].num_rows, count)]
        if not places:
            give_up(f"data/tokens holds no {name} row")
    else:
        places = [find_row(data, tables, row.strip().lower(), split, as_json=as_json)]
    tokenizer = read_tokenizer(data / "tokens" / contract.TOKENIZER)
    controls = control_ids(tokenizer)
    warn_if_stale(data)
    rows = [tables[place.split].slice(place.number, 1).to_pylist()[0] for place in places]
    names = read_source_names(data)
    origins = read_origins(data / "messages" / MESSAGES, names, [found["row_id"] for found in rows])
    steps = count_steps(data / "adapter", [found["row_id"] for found in rows])
    colour = has_colour()
    answer = []
    for place, found in zip(places, rows, strict=True):
        runs = token_runs(tokenizer, controls, found["input_ids"], found["labels"])
        labelled = sum(label != NOT_TRAINED for label in found["labels"])
        origin = dict(origins.get(found["row_id"]) or {})
        repeats = origin.pop("near_duplicate_of", None)
        facts = {"row_id": found["row_id"], "split": place.split, "origin": origin or None}
        facts |= {"near_duplicate_of": repeats} if repeats else {}
        facts |= {"tokens": len(found["input_ids"]), "labelled_tokens": labelled}
        facts |= {"steps": steps.get((found["row_id"], labelled))} if place.split == Split.TRAIN else {}
        if as_json:
            answer.append({**facts, "runs": json_runs(runs)})
            continue
        if not answer:
            say(legend(colour=colour))
        answer.append(facts)
        share = f"{facts['tokens']:,} tokens, {labelled:,} labelled"
        if facts.get("steps") is not None:
            share += f", trained in {facts['steps'] or 'no'} {'step' if facts['steps'] in (0, 1) else 'steps'}"
        share += f"  near duplicate of {repeats}" if repeats else ""
        say(
            "\n"
            + heading(
                f"{facts['row_id']}  {place.split}  {describe_origin(facts['origin'], several=len(names) > 1)}  {share}",
                colour=colour,
            )
        )
        say(paint_runs(runs, colour=colour))
    if as_json:
        say_json(answer)


def count_steps(adapter: Path, row_ids: list[str]) -> dict[tuple[str, int], int]:
    """{(row, its labelled tokens in the ledger): steps of data/adapter that it stood in}; nothing where there is no ledger that can be read.

    The labelled tokens tell a row of these tokens from the same row in the tokens of an earlier run.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from stages.contracts.adapter import LEDGER, read_ledger

    try:
        ledger = read_ledger(adapter / LEDGER)
    except ValueError:
        return {}
    found = ledger.filter(pc.is_in(ledger["row_id"], pa.array(row_ids, pa.string()))).to_pylist()
    return {(row["row_id"], row["labelled_tokens"]): len(row["steps"]) for row in found}


def require(path: Path) -> Path:
    """The path. Raises FileNotFoundError with its name if nothing is there (Arrow's own error has no name)."""
    path.stat()
    return path


def read_tokenizer(folder: Path) -> Any:  # noqa: ANN401 - tokenizers ships no types that mypy reads
    """The tokenizer of data/tokens. Raises ValueError if the file is none."""
    from tokenizers import Tokenizer

    text = require(folder / "tokenizer.json").read_text(encoding="utf-8")
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the library raises Exception itself
        raise ValueError(f"{folder.name}/tokenizer.json cannot be read; run `dvc repro template`") from error


def find_row(data: Path, tables: dict[str, "pa.Table"], prefix: str, split: Split | None, *, as_json: bool) -> Place:
    """The row whose id begins so. Ends the program with what became of it where it is not in data/tokens."""
    import pyarrow.compute as pc

    found: dict[str, Place] = {}
    for name, table in tables.items():
        for number in pc.indices_nonzero(begins_with(table, prefix)).to_pylist()[: MOST_CHOICES + 1]:
            found[table["row_id"][number].as_py()] = Place(name, number)
    # a repetition of a row that is kept has its id, and is in the lists
    aside = {row_id: item for row_id, item in read_set_aside(data, prefix).items() if row_id not in found}
    ids = sorted([*found, *aside])
    if not ids:
        give_up(f"no row of this dataset begins with {prefix}; `retune preview -n 5` shows some with their ids")
    if len(ids) > 1 and prefix not in ids:
        more = ", ..." if len(ids) > MOST_CHOICES else ""
        give_up(f"several rows begin with {prefix}: {', '.join(ids[:MOST_CHOICES])}{more}")
    chosen = prefix if prefix in ids else ids[0]
    if chosen in aside:
        say_aside(data, aside[chosen], as_json=as_json)
    if split is not None and found[chosen].split != split:
        give_up(f"{chosen} is in {found[chosen].split}, not in {split}")
    return found[chosen]


def begins_with(table: "pa.Table", prefix: str) -> "pa.Array":
    """By row, whether its id begins so."""
    import pyarrow.compute as pc

    return pc.starts_with(table["row_id"], pattern=prefix)


def read_set_aside(data: Path, prefix: str) -> dict[str, dict[str, Any]]:
    """{row id: row of rejected or excluded, with the stage that did it} of the rows whose id begins so, as far as the lists are there."""
    from stages.arrow.tables import read_parquet
    from stages.contracts import messages as message_files
    from stages.contracts import tokens as token_files

    lists = {
        data / "messages" / message_files.REJECTED: "standardize",
        data / "messages" / message_files.EXCLUDED: "standardize",
        data / "tokens" / token_files.REJECTED: "template",
    }
    aside: dict[str, dict[str, Any]] = {}
    for path, stage in lists.items():
        if path.is_file():
            table = read_parquet(path)
            for item in table.filter(begins_with(table, prefix)).slice(0, 100).to_pylist():
                aside.setdefault(item["row_id"], {"stage": stage, **item})
    return aside


def say_aside(data: Path, item: dict[str, Any], *, as_json: bool) -> NoReturn:
    """Say why a row is not in data/tokens, and where it came from; end with exit code 1."""
    from retune.terminal import describe_origin, origin_of, say_json
    from stages.chat import row_rules as template_rules
    from stages.conversations import row_rules as standardize_rules

    names = read_source_names(data)
    origin = origin_of(item, names)
    state = "excluded" if "reason" in item else "rejected"
    if as_json:
        facts = {key: item[key] for key in ("row_id", "stage", "rule", "of", "reason") if item.get(key) is not None}
        say_json({"state": state, **facts, "origin": origin})
        raise typer.Exit(1)
    row = f"{item['row_id']} ({describe_origin(origin, several=len(names) > 1)})"
    if state == "excluded":
        give_up(f"{row} is excluded by data/exclusions.csv: {item['reason']}")
    meanings = {"standardize": standardize_rules.RULES, "template": template_rules.RULES}[item["stage"]]
    # the lists may be those of an earlier version, with a rule that is no more
    meaning = f" ({meanings[item['rule']]})" if item["rule"] in meanings else ""
    of = f", of {item['of']}" if item.get("of") else ""
    give_up(f"{row} is rejected by {item['stage']}: {item['rule']}{of}{meaning}")


def read_origins(messages: Path, names: list[str], row_ids: list[str]) -> dict[str, dict[str, Any]]:
    """{row id: {source, file, line, near_duplicate_of (where it is flagged)}} of kept rows; empty where the file is not there."""
    import pyarrow.parquet as pq

    from retune.terminal import origin_of

    if not row_ids or not messages.is_file():
        return {}
    columns = ["row_id", "source", "file", "line", "near_duplicate_of"]
    table = pq.read_table(messages, columns=columns, filters=[("row_id", "in", row_ids)])
    return {
        item["row_id"]: origin_of(item, names)
        | ({"near_duplicate_of": item["near_duplicate_of"]} if item["near_duplicate_of"] else {})
        for item in table.to_pylist()
    }


def warn_if_stale(data: Path) -> None:
    """Say on stderr that the params are not those that data/tokens was made with, as far as that is known."""
    from stages.core.errors import StageError
    from stages.core.files import read_json_object
    from stages.core.params import read_params

    try:
        values = read_params(data.parent / "params.yaml")
    except StageError:
        return
    records = {stage: data / "records" / f"{stage}.json" for stage in ("fetch_data", "standardize", "template")}
    changed = [
        stage
        for stage, record in records.items()
        if record.is_file() and read_json_object(record).get("params") != values.get(stage)
    ]
    if changed:
        typer.echo(f"retune: params changed since ({show_text(', '.join(changed))}); `dvc repro template`", err=True)


def read_source_names(data: Path) -> list[str]:
    """What the sources are called, by their number; empty where data/raw is not there."""
    from pydantic import BaseModel

    from stages.contracts.raw import SOURCE
    from stages.core.files import read_json_as

    class Source(BaseModel):
        source: str

    class Sources(BaseModel):
        sources: list[Source]

    path = data / "raw" / SOURCE
    return [one.source for one in read_json_as(path, Sources).sources] if path.is_file() else []
