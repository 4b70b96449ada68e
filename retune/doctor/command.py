"""`retune doctor`: what this machine has, what is missing, and what to do about it.

It imports neither torch nor DVC: GPUs are asked through nvidia-smi, packages through their metadata.
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from retune.doctor.finding import Finding
from retune.doctor.machine import (
    check_disk,
    check_fast_tokenizer,
    check_gpus,
    check_memory,
    check_packages,
    check_python,
    check_write_access,
)
from retune.doctor.models import check_hub, check_llama_cpp, check_quantizer, weights_bytes
from retune.doctor.params import check_params, read_params
from retune.doctor.repository import check_dvc, check_git, check_locks
from retune.project import print_json, project_root
from stages.core.value_differences import show_text


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False) -> None:
    """Look at the machine and the project: ok, warning or problem, and what to do. Exit code 1 if there is a problem."""
    root = project_root()
    found = list(examine(root))
    bad = any(line.state == "problem" for line in found)
    if as_json:
        print_json({"ok": not bad, "findings": [asdict(line) for line in found]})
    else:
        print_findings(found)
    if bad:
        raise typer.Exit(1)


def examine(root: Path) -> Iterable[Finding]:
    """Every finding, in the order of the report."""
    params = read_params(root)
    weights = weights_bytes(root, params)
    looks: list[Callable[[], Iterable[Finding]]] = [
        lambda: [check_python(root)],
        lambda: [check_packages(root)],
        lambda: [check_fast_tokenizer(root, Path(sys.prefix))],
        lambda: [check_params(root)],
        lambda: [check_disk(root, weights)],
        lambda: [check_memory(weights)],
        lambda: check_gpus(params, weights),
        check_llama_cpp,
        lambda: check_quantizer(params),
        lambda: check_hub(params),
        lambda: check_dvc(root),
        lambda: check_locks(root / ".dvc" / "tmp"),
        lambda: check_git(root),
        lambda: [check_write_access(root)],
    ]
    for look in looks:
        yield from look()


def print_findings(found: list[Finding]) -> None:
    """The findings as lines; colours only on a terminal."""
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True)
    colours = {"ok": "green", "warning": "yellow", "problem": "red"}
    width = max(len(line.subject) for line in found)
    for line in found:
        console.print(
            Text.assemble((f"{line.state:8}", colours[line.state]), f"{line.subject:{width}}  {show_text(line.found)}")
        )
        if line.todo:
            console.print(Text(f"{'':8}{'':{width}}  -> {show_text(line.todo)}"))
