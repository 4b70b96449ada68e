"""`retune summary`: what the last run made, in one short table."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from retune.earlier import find_earlier
from retune.execution import describe_all
from retune.project import give_up
from retune.verdict import find_verdict, is_of_verdict
from stages.contracts.messages import FATES
from stages.core.files import read_json
from stages.core.value_differences import show_text

DATA = Path("data")
MAKERS = ("train", "merge", "gguf")
"""Stages that make the model's files. A run that fails takes those of its stage along, with the record."""
FOLDERS = {"adapter": "train", "merged": "merge", "gguf": "gguf"}
"""{folder of such files: its stage}."""
EARLIER = " (of an earlier run)"


def summary(
    as_json: Annotated[bool, typer.Option("--json", help="The same as one JSON object.")] = False,
) -> None:
    """Rows, tokens, loss and answers from base to tuned, files with their sizes, and where the report is."""
    from stages.core.errors import StageError

    try:
        found = read_summary(DATA)
    except FileNotFoundError as error:
        typer.echo(
            f"{show_text(str(error.filename))} is not there yet: run `make repro` (or `dvc repro`) first.", err=True
        )
        raise typer.Exit(1) from error
    except StageError as error:
        give_up(str(error))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in lines(found):
        table.add_row(name, show_text(value))
    Console(markup=False).print(table)


def read_summary(data: Path) -> dict[str, Any]:
    """What the stages wrote about themselves.

    Raises FileNotFoundError naming the first file that is missing, StageError naming one that is damaged, or that there are others.
    """
    names = ("messages/summary.json", "tokens/summary.json", "evaluation/metrics.json")
    rows, tokens, metrics = (read_figures(data / name) for name in names)
    try:
        return gather(data, rows, tokens, metrics)
    except (KeyError, TypeError, AttributeError) as error:
        from stages.core.errors import StageError

        said = f"the figures in {data} are not as this version of Retune writes them ({type(error).__name__}: {error})"
        raise StageError(f"{said}; `retune verify` names what differs, `dvc repro` makes them anew") from error


def read_figures(path: Path) -> Any:  # noqa: ANN401 - JSON has no narrower type
    """The JSON in a file. Raises StageError with the file's name if it is none."""
    from stages.core.errors import StageError

    try:
        return read_json(path)
    except (ValueError, RecursionError) as error:
        raise StageError(
            f"{path} is no whole JSON file: it is cut off or damaged; `retune verify` says what brings it back"
        ) from error


def gather(data: Path, rows: Any, tokens: Any, metrics: Any) -> dict[str, Any]:  # noqa: ANN401 - as they were read
    """What is told, of these figures and of what else lies there."""
    verdict, report = find_verdict(data.parent), data / "report/index.html"
    changed, unread = find_changed_sections(data, Path("params.yaml"))
    earlier = find_earlier(data.parent)
    files = [
        *(data / "gguf" / name for name in list_exported(data)),
        data / "adapter/adapter_model.safetensors",
        *sorted(data.glob("merged/*.safetensors")),
    ]
    return {
        "rows": {key: rows[key] for key in ("raw", *FATES)},
        "flags": {flag: told["rows"] for flag, told in rows["flags"].items()},
        "seen": rows["seen"],
        "rejected_by_template": sum(tokens["rejected"].values()),
        "training": read_training_counts(data / "adapter"),
        "loss": [metrics["base"]["loss"], metrics["tuned"]["loss"]],
        "answers_right": [metrics["base"]["exact_match"], metrics["tuned"]["exact_match"]],
        "files": {file.as_posix(): file.stat().st_size if file.is_file() else None for file in files},
        "gone": [stage for stage in MAKERS if not (data / f"records/{stage}.json").is_file()],
        "passed": verdict.passed,
        "reasons": verdict.reasons,
        "verdict": verdict.in_words(),
        "report": report.as_posix(),
        "report_of_verdict": is_of_verdict(report, verdict),
        "earlier": earlier,
        "execution": describe_all(data.parent, [stage for stage in find_stages(data) if stage not in earlier]),
        "changed_since": changed,
        "unreadable": unread,
    }


def read_training_counts(adapter: Path) -> dict[str, Any]:
    """{counts: TrainingCounts, says}: what the adapter that lies there was trained on; counts null where its files do not say."""
    from stages.contracts.adapter import read_trained
    from stages.reporting.training_counts import count_trained, describe_trained

    try:
        ledger, log, training = read_trained(adapter)
    except ValueError as error:
        return {"counts": None, "says": f"not known: {error}"}
    counts = count_trained(ledger, log, training["steps"])
    return {"counts": counts, "says": describe_trained(counts)}


def find_stages(data: Path) -> list[str]:
    """The stages whose record or execution record is here."""
    return sorted({file.stem for folder in ("records", "execution") for file in data.glob(f"{folder}/*.json")})


def list_exported(data: Path) -> list[str]:
    """The GGUF files of the model and of the adapter; not the base's, which nobody trained, and no importance matrix."""
    path = data / "gguf/checks.json"
    if not path.is_file():
        return []
    checks = read_figures(path)
    return [*checks["files"], *([checks["lora"]["file"]] if checks["lora"] else [])]


def find_changed_sections(data: Path, parameters: Path) -> tuple[list[str], list[str]]:
    """(sections of params.yaml that are not those of the run whose figures these are, what is wrong with records that do not say)."""
    from stages.core.errors import StageError
    from stages.core.params import read_params
    from stages.dvc_lock.records import parse_record

    now, changed, unread = read_params(parameters), [], []
    for file in sorted(data.glob("records/*.json")):
        try:
            record = parse_record(file.as_posix(), file.read_bytes())
        except (StageError, OSError) as error:
            unread.append(str(error))
        else:
            changed += [file.stem] if now.get(file.stem) != record["params"] else []
    return changed, unread


def lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The table's rows: (name, value)."""
    marks = dict.fromkeys(found["earlier"], EARLIER)
    told = [
        ("rows", format_rows(found)),
        *flag_and_seen_lines(found),
        ("training", found["training"]["says"] + marks.get("train", "")),
        ("held-out loss", format_change(found["loss"], "{:.4f}") + marks.get("evaluate", "")),
    ]
    if found["answers_right"] != [None, None]:
        told.append(("answers right", format_change(found["answers_right"], "{:.1%}") + marks.get("evaluate", "")))
    for number, (name, size) in enumerate(found["files"].items()):
        mark = marks.get(FOLDERS[Path(name).parent.name], "")
        told.append(
            ("file" if number == 0 else "", f"{name}  {'gone' if size is None else f'{size / 1e6:,.1f} MB{mark}'}")
        )
    told.append(("verdict", found["verdict"]))
    told.append(
        ("report", found["report"] + ("" if found["report_of_verdict"] else " (not of the figures that lie here)"))
    )
    return [*told, *found["execution"], *notes_and_next(found)]


def format_rows(found: dict[str, Any]) -> str:
    """What became of the rows; what the template rejected counts only where it read the rows that lie here."""
    rows, earlier = found["rows"], found["earlier"]
    template = 0 if "template" in earlier else found["rejected_by_template"]
    kept = rows["train"] + rows["heldout"] - template
    aside = rows["rejected"] + template
    others = {"repeated": "repeated", "near_heldout": "near held-out ones", "excluded": "excluded"}
    more = "".join(f", {rows[fate]:,} {word}" for fate, word in others.items() if rows[fate])
    said = f"{rows['raw']:,} in, {kept:,} kept ({rows['heldout']:,} held out), {aside:,} rejected{more}"
    if "standardize" in earlier:
        said += EARLIER
    return said + (
        "; what the template rejects is not counted, its files are of an earlier run" * ("template" in earlier)
    )


def notes_and_next(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What is amiss, and what to do next. Files of two runs are not offered as one model."""
    told, earlier = [], found["earlier"]
    gone = found["gone"] or [name for name, size in found["files"].items() if size is None]
    if earlier:
        said = (
            f"of an earlier run: {', '.join(earlier)} (by the records they were made of other files than lie here now)"
        )
        told.append(("note", f"{said}: `dvc repro` makes them anew; their times are not counted"))
    if gone:
        said = f"a later run has failed or is under way, so files are gone ({', '.join(gone)})"
        back = "`dvc repro` makes them" if earlier else "`retune restore` brings them back"
        told.append(("note", f"{said}: {back}"))
    elif not set(MAKERS) & set(earlier) and any(name.endswith(".gguf") for name in found["files"]):
        push = ", `retune push` publishes it" if found["passed"] else ""
        told.append(("next", f"`retune chat` talks to it, `retune serve` offers it to programs{push}"))
    told += [("note", said) for said in found["unreadable"]]
    if found["changed_since"]:
        told.append(
            (
                "note",
                f"params.yaml has changed since ({', '.join(found['changed_since'])}): `dvc repro` brings this up to date",
            )
        )
    return told


def flag_and_seen_lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What is told of rows that are kept, and what the held-out ones measure."""
    mark = EARLIER if "standardize" in found["earlier"] else ""
    flags = ", ".join(f"{rows:,} {flag}" for flag, rows in found["flags"].items())
    told = [("flagged", f"{flags} (`data/messages/summary.json` names the first ones){mark}")] if flags else []
    return [*told, ("held out", found["seen"]["says"] + mark)] if found["rows"]["heldout"] else told


def format_change(values: list[float | None], form: str) -> str:
    """`base -> tuned`; a dash where nothing was measured."""
    return " -> ".join("\N{EN DASH}" if value is None else form.format(value) for value in values)
