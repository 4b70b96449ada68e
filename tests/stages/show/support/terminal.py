"""A program on a terminal, as people see it."""

import os
import pty
import subprocess
import sys

from tests.project import ROOT


def on_a_terminal(code: str, environment: dict[str, str]) -> str:
    """What a terminal gets of a program."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment}, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        got = b""
        while True:
            try:
                chunk = os.read(ours, 4096)
            except OSError:  # Linux ends a terminal so
                break
            if not chunk:
                break
            got += chunk
        assert process.wait(timeout=60) == 0, got
    os.close(ours)
    return got.decode()
