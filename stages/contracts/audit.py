"""data/audit: the verdict on a model and the record of what made it."""

from typing import Any

VERDICT = "verdict.json"
"""{passed: bool, reasons: [str], checks: [{name, passed, found, floor, says}]}; a check's `passed` is null for a figure that no floor is asked
of: it is not judged."""

PROVENANCE = "provenance.json"
"""{model, chain: {stage: record}}: for every stage its code, params, packages, inputs and outputs by sha256."""


def make_check(name: str, found: object, floor: object, *, passed: bool | None, says: str) -> dict[str, Any]:
    """One check of the verdict; `passed` None: a figure that no floor is asked of."""
    return {"name": name, "found": found, "floor": floor, "passed": passed, "says": says}
