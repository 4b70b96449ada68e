"""The same training by one process and by two, in each layout, in one by four; and a few things that stop one of two. Written to processes_probe.json.

Run in the folder of `tiny_base`. Not a test: Unsloth patches transformers for the whole process.
"""

import json
import time
from pathlib import Path
from typing import Any

from stages.core.errors import StageError
from stages.core.params import Runtime
from stages.train import train
from stages.training.params import TrainParams
from tests.stages.training.support.tiny import RUNTIME, TRAIN

LAYOUTS: dict[str, dict[str, Any]] = {
    # 24 rows: 7, 7, 7 and 3 a step, so 4 and 3, 2 and 1; micro-batches of 3 and 1, 2 and 2
    "padded": {"conversations_per_step": 7, "keep": "best"},
    # 23 and 1: the second process has nothing in each epoch's last step
    "flattened": {"layout": "flattened", "conversations_per_step": 23},
    "packed": {"layout": "packed", "conversations_per_step": None, "tokens_per_step": 1280, "pack_length": 256},
}


def go(name: str, changed: dict[str, Any], processes: int) -> dict[str, Any]:
    params = TrainParams.model_validate({**TRAIN, "logging_steps": 1, "eval_steps": 4, **changed})
    runtime = Runtime.model_validate({**RUNTIME, "micro_batch": 3, "processes": processes})
    began = time.monotonic()
    try:
        train(Path("base"), Path("tokens"), Path("first"), Path("processes") / name, params, runtime)()
    except StageError as error:
        return {"said": str(error), "seconds": time.monotonic() - began}
    return {"said": "", "seconds": time.monotonic() - began}


def main() -> None:
    Path("processes").mkdir()
    found = {
        f"{layout}-{count}": go(f"{layout}-{count}", changed, count)
        for layout, changed in LAYOUTS.items()
        for count in ((1, 2, 4) if layout == "flattened" else (1, 2))
    }
    wild = {"learning_rate": 1e30, "warmup_steps": 0, "schedule": "constant", "eval_steps": None}
    found["wild"] = go("wild", wild, 2)
    Path("processes_probe.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
