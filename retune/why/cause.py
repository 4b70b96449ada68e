"""One reason for a stage to run."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Cause:
    """What differs from the stage's last run."""

    kind: Literal["first", "command", "param", "code", "pin", "input", "output"]
    name: str
    """The param, file, package, folder or `cmd`; the stage itself for `first`."""
    text: str
    """One line for people. It holds no text of a dataset."""
    old: Any = None
    """Of a param, pin or command: what it was."""
    new: Any = None
    """What it is."""
