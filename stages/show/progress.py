"""How far a long loop is: rows, rows a second, time left. It shows, and shapes no output, so it is in no cache key.

    with progress("tokenizing", total) as advance:
        for batch in batches:
            ...
            advance(batch.num_rows)

Nothing is said in the first seconds. Then a terminal gets a live line on stderr, which is gone when the loop ends; elsewhere
(DVC in CI, Prefect's logs) the stage's log gets a line every half minute.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol, TextIO, cast

log = logging.getLogger("retune")

QUIET = 2.5
"""Seconds before anything is shown: most loops are over by then."""
LINE_EVERY = 30.0
"""Seconds between two lines of the log."""
REDRAW_EVERY = 0.2
"""Seconds between two states of the live line."""


Advance = Callable[[int], None]


class AdvanceWithNote(Protocol):
    """An `Advance` that can be told more."""

    def __call__(self, count: int, note: Callable[[], str] | None = None, /, *, earlier: bool = False) -> None:
        """`count` more are done.

        Args:
            count: since the last call.
            note: what else to show, asked for when something is shown.
            earlier: they were done before the loop began, as by a run that was interrupted, and say nothing about its speed.
        """


@contextmanager
def progress(doing: str, total: int | None = None, unit: str = "rows") -> Iterator[AdvanceWithNote]:
    """Show how far a loop is, from the moment it takes longer than a few seconds.

    Args:
        doing: what is going on, such as "tokenizing"; the log's lines begin with the stage's name already.
        total: how many there will be; None where nobody knows, then there is no time left to tell.
        unit: what is counted, in the plural.

    Yields:
        A function to call with the number that is done since the last call. It costs a look at the clock.
    """
    with ExitStack() as stack:
        draw: Callable[[int, str], None] | None = None
        started = time.monotonic()
        live = on_terminal(sys.stderr)
        due = started + (QUIET if live else LINE_EVERY)
        done = before = 0

        def advance(count: int, note: Callable[[], str] | None = None, /, *, earlier: bool = False) -> None:
            nonlocal done, before, due, draw
            done += count
            before += count if earlier else 0
            now = time.monotonic()
            if now < due:
                return
            due = now + (REDRAW_EVERY if live else LINE_EVERY)
            words = told(done, total, now - started, unit, before)
            if note is not None:
                words = f"{note()}; {words}"
            if not live:
                log.info("%s: %s", doing, words)
                return
            if draw is None:
                draw = stack.enter_context(live_line(doing, total))
            draw(done, words)

        yield advance


def told(done: int, total: int | None, seconds: float, unit: str, before: int = 0) -> str:
    """`12,000 of 40,000 rows (30%), 4,000 rows/s, 7 s left`; without a total, or past it, what is known.

    The first `before` of them took none of the seconds.
    """
    rate = (done - before) / seconds if seconds > 0 else 0.0
    speed = f"{rate:,.0f} {unit}/s" if rate >= 10 or not rate else f"{rate:,.1f} {unit}/s"  # noqa: PLR2004 - two digits
    if total is None or done > total:
        return f"{done:,} {unit}, {speed}"
    left = f", {duration((total - done) / rate)} left" if rate else ""
    return f"{done:,} of {total:,} {unit} ({done / total if total else 1:.0%}), {speed}{left}"


def duration(seconds: float) -> str:
    """Seconds as people say them: `7 s`, `4 min 5 s`, `3 h 12 min`."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, over = divmod(minutes, 60)
    if hours:
        return f"{hours} h {over} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def on_terminal(stream: TextIO) -> bool:
    """Whether a line can be drawn over again there."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


@contextmanager
def live_line(doing: str, total: int | None) -> Iterator[Callable[[int, str], None]]:
    """A bar and its figures on stderr until the block ends; what is logged meanwhile stands above it.

    It is drawn when it is told to, by no thread: a stage may fork.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    # on a narrow terminal the figures take a second line
    figures = TextColumn("{task.fields[told]}", table_column=Column())
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), figures)
    bar = Progress(
        *columns,
        console=Console(stderr=True, highlight=False),
        transient=True,
        auto_refresh=False,
        redirect_stdout=sys.stdout.isatty(),
    )
    task = bar.add_task(doing, total=total, told="")
    # the log holds the streams themselves, which rich has not put its own in place of
    streams = {sys.stdout: "stdout", sys.stderr: "stderr"}
    handlers = [
        (handler, handler.stream)
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream in streams
    ]
    with bar:
        for handler, stream in handlers:
            handler.setStream(cast("TextIO", getattr(sys, streams[stream])))
        try:
            yield lambda done, words: bar.update(task, completed=done, told=words, refresh=True)
        finally:
            for handler, stream in handlers:
                handler.setStream(stream)
