"""Benches that run each configuration in a process of its own, which prints what it found as a line `ROW {json}`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.project import ROOT

ROW = "ROW "
LAST_LINES = 15
"""Of a log, when there is no row in it."""


def say_row(found: dict[str, Any]) -> None:
    """Print what was found, for `rows_of`."""
    print(ROW + json.dumps(found), flush=True)  # noqa: T201 - what it is for


def start(module: str, arguments: list[str], log: Path) -> "subprocess.Popen[bytes]":
    """Start a module of this folder; what it says goes into `log`."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", f"tests.bench.{module}", *arguments]
    with log.open("w") as said:
        return subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=environment)


def rows_of(log: Path) -> list[dict[str, Any]]:
    """What a process has found so far."""
    return [json.loads(line.removeprefix(ROW)) for line in log.read_text().splitlines() if line.startswith(ROW)]


def rows_or_complaint(log: Path, what: str) -> list[dict[str, Any]]:
    """What an ended process has found; if that is nothing, `what` failed, and the end of its log is printed."""
    found = rows_of(log)
    if not found:
        print(f"{what} failed:", *log.read_text().splitlines()[-LAST_LINES:], sep="\n")  # noqa: T201 - what it is for
    return found
