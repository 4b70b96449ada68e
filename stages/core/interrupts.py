"""Ctrl-C in a stage: it gets through, once, and never cuts off the cleaning up."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130
"""The exit status after Ctrl-C: 128 and the number of the signal, as shells have it."""
AGAIN = 2.0
"""Seconds after which another Ctrl-C counts."""


def take_interrupts() -> list[float]:
    """Let Ctrl-C raise KeyboardInterrupt, but not twice at once: a second press is not to cut off the cleaning up. Gives the times it came."""
    pressed: list[float] = []

    def interrupt(_number: int, _frame: object) -> None:
        now = time.monotonic()
        if not pressed or now - pressed[-1] > AGAIN:
            pressed.append(now)
            raise KeyboardInterrupt

    def lost(found: "sys.UnraisableHookArgs") -> None:
        if pressed and found.exc_type is KeyboardInterrupt:  # it came within a destructor, which swallows it
            pressed.append(-AGAIN)
            again = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
            again.daemon = True
            again.start()
        else:
            sys.__unraisablehook__(found)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # it is ignored in a shell's background job
        signal.signal(signal.SIGINT, interrupt)
        sys.unraisablehook = lost
    return pressed


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Leave Ctrl-C aside for a moment: old and new outputs are not to stand side by side."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
