"""Train, and kill this very process where the command line says.

    python resume_probe.py ADAPTER [key=value ...] [--kill-after STEP] [--kill-in-save STEP] [--kill-other STEP] [--kill-written]
        [--slow SECONDS] [--micro-batch N] [--processes N]

Run in a folder with base and tokens. Not a test: it dies.
"""

import argparse
import logging
import os
import signal
import sys
import time
from pathlib import Path

from ruamel.yaml import YAML

from stages.core.errors import StageError
from stages.core.params import Runtime
from stages.train import train
from stages.training import checkpoints
from stages.training.params import TrainParams
from stages.training.step_log import StepLog
from tests.stages.training.support.tiny import RUNTIME, TRAIN

log = logging.getLogger("retune")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("adapter", type=Path)
    parser.add_argument("changed", nargs="*")
    parser.add_argument("--kill-after", type=int, default=0)
    parser.add_argument("--kill-in-save", type=int, default=0)
    parser.add_argument("--kill-other", type=int, default=0)
    parser.add_argument("--kill-written", action="store_true")
    parser.add_argument("--processes", type=int, default=None)
    parser.add_argument("--slow", type=float, default=0)
    parser.add_argument("--micro-batch", type=int, default=8)
    given = parser.parse_args()
    logging.basicConfig(level="INFO", format="train: %(message)s", stream=sys.stdout)
    changed = {key: YAML(typ="safe").load(value) for key, value in (pair.split("=") for pair in given.changed)}
    lora = {**TRAIN["lora"], "dropout": changed.pop("dropout", 0.0)}
    params = TrainParams.model_validate({**TRAIN, "logging_steps": 3, "lora": lora, **changed})
    runtime = Runtime.model_validate(
        {**RUNTIME, "micro_batch": given.micro_batch, "processes": given.processes, "save_steps": 2}
    )

    ended = StepLog.end_step

    def end_step(self: StepLog, step: int, *rest: object, **named: object) -> None:
        ended(self, step, *rest, **named)
        log.info("ended %d", step)
        if step == 1 or self.started_at == step - 1:
            log.info("others %s", " ".join(map(str, others())))
        time.sleep(given.slow)
        if step == given.kill_other:
            log.info("killing at %f", time.time())
            os.kill(others()[0], signal.SIGKILL)
        if step == given.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    written = checkpoints.flush_to_disk

    def flush_to_disk(path: Path) -> None:
        written(path)
        if f"{given.kill_in_save:08d}.partial" in path.as_posix():
            os.kill(os.getpid(), signal.SIGKILL)

    StepLog.end_step = end_step
    checkpoints.flush_to_disk = flush_to_disk
    try:
        done = train(Path("base"), Path("tokens"), Path("first"), given.adapter, params, runtime)
        if given.kill_written:
            os.kill(os.getpid(), signal.SIGKILL)
        done()
    except StageError as error:
        sys.exit(str(error))


def others() -> list[int]:
    """The processes that share this one's steps."""
    children = [int(pid) for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()]
    return [pid for pid in children if b"stages.training.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


if __name__ == "__main__":
    main()
