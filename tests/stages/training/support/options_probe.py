"""Trainings with one option each, in one process; what failed is written to options.json.

Run in the folder of `tiny_base`. Not a test: Unsloth patches transformers for the whole process.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from stages.contracts import adapter as contract
from stages.core.errors import StageError
from stages.core.params import Runtime
from stages.train import train
from stages.training.params import TrainParams
from tests.stages.training.support.tiny import RUNTIME, TRAIN

SHORT = {"steps": 6, "layout": "flattened", "eval_steps": None, "logging_steps": 1}
MEASURED = {**SHORT, "steps": 12, "schedule": "constant", "warmup_steps": 0, "learning_rate": 0.15, "eval_steps": 1}

SAID: dict[str, str] = {}


def go(name: str, changed: dict[str, Any], *, base: str = "base", first: str = "first", **runtime: Any) -> None:
    lora = {**TRAIN["lora"], **changed.pop("lora", {})}
    params = TrainParams.model_validate({**TRAIN, **SHORT, **changed, "lora": lora})
    how = Runtime.model_validate({**RUNTIME, "micro_batch": 8, **runtime})
    try:
        train(Path(base), Path("tokens"), Path(first), Path("options") / name, params, how)()
    except StageError as error:
        SAID[name] = str(error)


def main() -> None:
    Path("options").mkdir()
    go("plain", {})
    go("dora", {"lora": {"use_dora": True}})
    go("whole_head", {"lora": {"modules_to_save": ["lm_head"]}})
    go("tied_head", {"lora": {"modules_to_save": ["lm_head"]}}, base="tied")
    go("no_module", {"lora": {"modules_to_save": ["score"]}})
    for name in ("noise", "noise_again"):
        go(name, {"neftune_noise_alpha": 5.0})
    go("sixteen_bit", {"load_in_4bit": False, "dtype": "bfloat16"})
    for optimizer in ("paged_adamw_8bit", "adamw_torch_fused"):
        go(optimizer, {"optimizer": optimizer})
    go("float16", {"dtype": "float16"})

    go("early", {**MEASURED, "early_stopping": 2, "keep": "best"})
    best = json.loads((Path("options/early") / contract.TRAINING).read_text())["steps"] if not SAID.get("early") else 1
    go("until_best", {**MEASURED, "steps": best})

    go("first", {})
    go("second", {"init_adapter": "custom"}, first="options/first")
    go("second_other_rank", {"init_adapter": "custom", "lora": {"r": 4}}, first="options/first")
    go("second_nothing", {"init_adapter": "custom"})
    go("second_other_base", {"init_adapter": "custom"}, base="tied", first="options/first")
    foreign = Path("options/foreign")
    shutil.copytree("options/dora", foreign)
    config = json.loads((foreign / contract.CONFIG).read_text())
    (foreign / contract.CONFIG).write_text(json.dumps({**config, "use_dora": False}))
    go("second_other_weights", {"init_adapter": "custom"}, first="options/foreign")
    go("tracked", {}, report_to="wandb")
    Path("options.json").write_text(json.dumps(SAID))


if __name__ == "__main__":
    main()
