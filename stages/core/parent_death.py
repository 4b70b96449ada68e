"""A process that does not outlive the one that started it, however that one dies."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: which signal this process gets when its parent dies."""


def die_with_parent(number: signal.Signals = signal.SIGTERM, parent: int | None = None) -> None:
    """Ask Linux to send this process a signal when the one that started it dies, so that no work goes on unseen.

    Args:
        number: SIGTERM lets the process end in order; SIGKILL ends it at once, even where it waits for a GPU.
        parent: id of the process that started this one. Where that has died already, which no signal would tell, this process ends
            here with status 1. None: not known, not looked at.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(1)
