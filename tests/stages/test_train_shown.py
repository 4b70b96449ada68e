"""What a person sees of a training on a terminal."""

import re
from pathlib import Path

import pytest

from tests.stages.show.support.terminal import on_a_terminal

pytestmark = pytest.mark.slow

TRAIN = """
import os, sys
os.chdir({folder!r})
sys.argv = ["resume_probe", "shown", "layout=flattened", "--slow", "0.4"]
from tests.stages.training.support import resume_probe
resume_probe.main()
"""


def test_bar_of_a_training_shows_step_losses_speed_memory_and_time_left(world: Path) -> None:
    got = on_a_terminal(TRAIN.format(folder=str(world)), {"TERM": "xterm", "COLUMNS": "150", "OMP_NUM_THREADS": "1"})
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", got).replace("\r", "\n").split("\n")
    shown = [line for line in lines if line.startswith("training ")]
    pattern = (
        r"training \S+ step (\d+) of 16, loss \d\.\d{4}, held-out \d\.\d{4}, \d\.\d\d GiB; "
        r"[\d,]+ of [\d,]+ tokens \(\d+%\), [\d,]+ tokens/s, \d+ s left"
    )
    steps = [int(found[1]) for found in map(re.compile(pattern).match, shown) if found]
    assert steps, shown
    assert min(steps) > 8, "held-out rows are measured every 8 steps"
    assert any("GiB" in line and "held-out" not in line for line in shown), "before that there is no held-out loss"
    # the step log's lines, too
    assert re.search(r"step 3/16  loss \S+  gradient \S+  \d+ tokens/s  \d\.\d\d GiB  \d+ s left", "\n".join(lines))
