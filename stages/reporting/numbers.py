"""Measures as people read them, on every page that is written."""

NOTHING = "\N{EN DASH}"
"""Where there was nothing to measure."""


def format_small(value: float | None) -> str:
    """A measure that may be tiny, to two significant digits."""
    return NOTHING if value is None else f"{value:.2g}"


def format_percent(value: float | None) -> str:
    """A share as a percentage."""
    return NOTHING if value is None else f"{value:.1%}"
