"""What `retune doctor` says of one thing that it looked at."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it is, what was found, and what to do if it is not well."""

    subject: str
    state: Literal["ok", "warning", "problem"]
    found: str
    todo: str = ""
