"""What a verdict and a page show of the params they were made with: what stands against `audit` and `report` in the execution record."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from stages.core.execution import guard_notes, note_ran, note_unknown

NAMED = re.compile(r"\baudit\.([a-z0-9_.]*[a-z0-9])")
"""A floor's param in what a check says."""


@guard_notes
def note_floors(checks: Iterable[Mapping[str, Any]], asked: Mapping[str, Any]) -> None:
    """Note the floors of the checks. `asked`: {key such as `audit.gguf.q8_0.max_kl_divergence`: what it asks for}."""
    found = read_floors(checks)
    for key, value in asked.items():
        if key in found or value is None:
            # no check by a floor is what null asks for
            note_ran({key: found.get(key)})
        else:
            note_unknown("there was nothing to judge by it", key)


def read_floors(checks: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """{key: floor} of the checks that name the param of their floor."""
    return {
        f"audit.{key}": check["floor"]
        for check in checks
        if check["floor"] is not None
        for key in NAMED.findall(check["says"])[:1]
    }


@guard_notes
def note_page(card: str, examples: int) -> None:
    """Note what the pages show.

    Args:
        card: the model card's text.
        examples: held-out answers on the page.
    """
    title = next((line.removeprefix("# ") for line in card.splitlines() if line.startswith("# ")), None)
    note_ran({"report.title": title})
    note_ran({"report.examples": examples}, "there are fewer answers that may be shown")
