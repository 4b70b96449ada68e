"""The train stage's command, slowed down, that says when each step has ended. Run by torchrun, in the folder of a project.

Not a test: it is killed.
"""

import os
import sys
import time

from stages.training.step_log import StepLog

ended = StepLog.end_step


def end_step(self: StepLog, step: int, *rest: object, **named: object) -> None:
    ended(self, step, *rest, **named)
    print(f"process {os.environ['PROBE_RANK']} ({os.getpid()}) ended {step}", flush=True)  # noqa: T201 - what the test waits for
    time.sleep(float(os.environ.get("PROBE_SLOW", "0")))


if __name__ == "__main__":
    # the stage takes it out of the environment
    os.environ["PROBE_RANK"] = os.environ["RANK"]
    StepLog.end_step = end_step  # type: ignore[method-assign]
    sys.argv[0] = "stages/train.py"
    from stages.train import main

    main()
