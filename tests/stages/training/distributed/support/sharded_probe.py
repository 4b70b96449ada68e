"""The same 16-bit training by one process and by two that the base is spread over. Written to sharded_probe.json.

Run in the folder of `tiny_base`. Not a test: Unsloth patches transformers for the whole process.
"""

import json
from pathlib import Path
from typing import Any

from stages.core.errors import StageError
from stages.core.params import Runtime
from stages.train import train
from stages.training.params import TrainParams
from tests.stages.training.support.tiny import RUNTIME, TRAIN

LAYOUTS: dict[str, dict[str, Any]] = {
    # 24 rows: 23 and 1, so the second process has fewer micro-batches, and in each epoch's last step none
    "flattened": {"layout": "flattened", "conversations_per_step": 23},
    "packed": {"layout": "packed", "conversations_per_step": None, "tokens_per_step": 1280, "pack_length": 256},
}


def go(name: str, changed: dict[str, Any], how: dict[str, Any]) -> dict[str, Any]:
    params = TrainParams.model_validate(
        {**TRAIN, "load_in_4bit": False, "logging_steps": 1, "eval_steps": 4, "steps": 8, **changed}
    )
    runtime = Runtime.model_validate({**RUNTIME, "micro_batch": 3, **how})
    try:
        train(Path("base"), Path("tokens"), Path("first"), Path("sharded") / name, params, runtime)()
    except StageError as error:
        return {"said": str(error)}
    return {"said": ""}


def main() -> None:
    Path("sharded").mkdir()
    two = {"processes": 2, "sharding": "fsdp"}
    found = {}
    for layout, changed in LAYOUTS.items():
        found[f"{layout}-1"] = go(f"{layout}-1", changed, {})
        # activations made again as well: each group's weights are then asked for once more
        policy = {"gradient_checkpointing": "on"} if layout == "packed" else {}
        found[f"{layout}-2"] = go(f"{layout}-2", changed, {**two, **policy})
    found["4bit"] = go("4bit", {**LAYOUTS["packed"], "load_in_4bit": True}, two)
    found["padded"] = go("padded", {}, two)
    Path("sharded_probe.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
