"""Prefect's settings for this project. Import it before prefect, which reads them once.

They are defaults: what the user has set in the environment stands.
"""

import os
import sys
from pathlib import Path

DEFAULTS = {
    # nothing about a run leaves this machine
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # Prefect's own 20 s are too short for a busy machine with 2 cores: its server takes up to 40 s there
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
}


def set_defaults() -> None:
    """Put the defaults into the environment; the server's database into the project's scratch folder."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    # in a worker or a test Prefect is there already, with a home of its own: moving it now would split it in two
    if "prefect" not in sys.modules:
        home = Path(os.environ.setdefault("PREFECT_HOME", (Path.cwd() / ".retune" / "prefect").as_posix()))
        home.mkdir(
            parents=True, exist_ok=True
        )  # Prefect waits the whole time-out for a database in a folder that is not there


set_defaults()
