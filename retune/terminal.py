"""How conversations are shown in a terminal: labelled text in one colour, context in another; between marks where there is no colour."""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stages.chat.turns import CONTROL_SHAPE
from stages.dataset_files.file_kinds import place_in
from stages.reporting.token_view import Run, escape, visible

OPEN, CLOSE = "\N{MATHEMATICAL LEFT WHITE SQUARE BRACKET}", "\N{MATHEMATICAL RIGHT WHITE SQUARE BRACKET}"
"""What labelled stretches stand between without colour. Where a text holds these characters, they are escaped."""
COLOURS = {  # (trained, control)
    (True, False): "1;32",
    (True, True): "1;7;32",
    (False, False): "",
    (False, True): "36",
}


def has_colour() -> bool:
    """Whether the answer may be coloured: a terminal, unless NO_COLOR is set."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def legend(*, colour: bool) -> str:
    """What the colours or marks say, one line."""
    if not colour:
        return (
            f"labelled text stands between {OPEN} and {CLOSE} (training learns to write it), the rest is context; <|...|> and the like are control tokens, "
            f"{escape('<')}|...|> is text that looks like one"
        )
    trained, end = (
        add_style("labelled (training learns to write it)", COLOURS[True, False]),
        add_style("its control tokens", COLOURS[True, True]),
    )
    return f"{trained}, {end}; context, {add_style('its control tokens', COLOURS[False, True])}"


def paint_runs(runs: Iterable[Run], *, colour: bool) -> str:
    """The text of runs, fit for a terminal: whatever a dataset holds, no escape sequence of its own gets there."""
    runs = list(runs)
    if colour:
        return "".join(add_style(visible(run.text), COLOURS[run.trained, run.control]) for run in runs)
    return "".join(
        (OPEN if run.trained and not (place and runs[place - 1].trained) else "")
        + (visible(run.text, also=OPEN + CLOSE) if run.control else escape_plain(run.text))
        + (CLOSE if run.trained and not (runs[place + 1 :] and runs[place + 1].trained) else "")
        for place, run in enumerate(runs)
    )


def escape_plain(text: str) -> str:
    """Text that is no control token: what looks like one has its `<` escaped, since no colour tells them apart."""
    return CONTROL_SHAPE.sub(lambda match: escape("<") + match.group()[1:], visible(text, also=OPEN + CLOSE))


def add_style(text: str, style: str) -> str:
    """The text in a style, line by line, so that a pager that begins in the middle shows it right."""
    if not style:
        return text
    return "\n".join(f"\x1b[{style}m{line}\x1b[0m" if line else "" for line in text.split("\n"))


def heading(text: str, *, colour: bool) -> str:
    """A line above a conversation."""
    return add_style(visible(text), "1") if colour else visible(text)


def origin_of(item: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """{source: its name (or number), file, line} of a row."""
    number = item["source"]
    return {"source": names[number] if number < len(names) else number, "file": item["file"], "line": item["line"]}


def describe_origin(origin: Mapping[str, object] | None, *, several: bool) -> str:
    """`file:line` (or `file, record 40`), with the source where there are several and the file's name does not tell."""
    if origin is None:
        return "origin unknown (data/messages is not there)"
    source = str(origin["source"])
    of = f" of {source}" if several and not source.endswith(str(origin["file"])) else ""
    return visible(f"{place_in(str(origin['file']), int(str(origin['line'])))}{of}")


def json_runs(runs: Sequence[Run]) -> list[dict[str, object]]:
    """Runs for a program."""
    return [run._asdict() for run in runs]


def say(text: str) -> None:
    """Print, whatever the terminal's encoding: what it cannot write is escaped."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    print(text)


def say_json(value: object) -> None:
    """Print JSON in ASCII: what a dataset holds reaches no terminal raw."""
    print(json.dumps(value, indent=2))
