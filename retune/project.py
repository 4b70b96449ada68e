"""Where the project is, and what DVC says about it."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import typer

from flows.process import dvc_command, dvc_environment
from stages.core.value_differences import show_text


def project_root() -> Path:
    """The folder with dvc.yaml, from here upwards. Ends the program with a message if there is none."""
    found = find_root()
    if found is None:
        give_up("no dvc.yaml here or above: call retune in the project's folder")
    return found


def find_root() -> Path | None:
    """The folder with dvc.yaml, from here upwards; None if there is none."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "dvc.yaml").is_file()), None)


def give_up(message: str) -> NoReturn:
    """Print the message to stderr and end with exit code 1. What moves a cursor or cannot be seen is spelled out; line ends stay."""
    typer.echo(f"retune: {show_lines(message)}", err=True)
    raise typer.Exit(1)


def show_lines(text: str) -> str:
    """Text of several lines, with what else moves a cursor, reorders a line or cannot be seen spelled out."""
    return "\n".join(map(show_text, text.split("\n")))


def run_dvc(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A DVC command's exit code and output."""
    return subprocess.run(
        dvc_command(*arguments), cwd=root, env=dvc_environment(), capture_output=True, text=True, check=False
    )


def dvc_status(root: Path, *stages: str) -> dict[str, list[Any]]:
    """{stage: its changes} as `dvc status` has them, of all stages or of the named ones. Raises ValueError with DVC's words."""
    result = run_dvc(root, "--wait-for-lock", "status", "--json", *stages)
    if result.returncode != 0:
        refuse_broken_yaml(root)
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        # below an error that it does not know DVC says where to report it
        lines = [line for line in lines if line.startswith("ERROR: ")] or lines
        raise ValueError(lines[-1].removeprefix("ERROR: ") if lines else f"dvc status ended with {result.returncode}")
    found: dict[str, list[Any]] = json.loads(result.stdout[result.stdout.index("{") :])
    return found


def refuse_broken_yaml(root: Path) -> None:
    """Raise ValueError, with the file, if dvc.yaml is what makes DVC fail: of values too deep in one another DVC itself does not say so."""
    from retune.yaml_files import read_yaml
    from stages.core.errors import StageError

    try:
        read_yaml(root / "dvc.yaml")
    except StageError as error:
        raise ValueError(str(error)) from error


def print_json(value: object) -> None:
    """The value as the command's answer for a program, in ASCII: what stands in files reaches no terminal raw."""
    print(json.dumps(value, indent=2))


def find_tokenizer(root: Path, values: Mapping[str, Any]) -> Path | None:
    """The folder with the tokenizer that the params name; None if it is not there yet."""
    from stages.core.files import read_json

    wanted = values.get("fetch_model", {})
    if wanted.get("source") in ("demo", "custom"):
        folder = root / "data" / {"demo": "demo/base", "custom": "custom_base"}[wanted["source"]]
        return folder if (folder / "tokenizer.json").is_file() else None
    fetched, record = root / "data/tokenizer", root / "data/records/fetch_model.json"
    # what is there may be the model of an earlier run
    same = record.is_file() and read_json(record).get("params") == wanted
    return fetched if same and (fetched / "tokenizer.json").is_file() else None
