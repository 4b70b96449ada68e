"""Train while a forward pass of more than so many rows asks for more memory than there is.

    python memory_probe.py ADAPTER MOST_ROWS [FROM_STEP [key=value ...]]     key=value: of the runtime section

figures.json is what the execution record would hold.

Run in a folder with base and tokens. Not a test: the process may become another one.
"""

import logging
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages.core.errors import StageError
from stages.core.execution import NOTES
from stages.core.files import write_json
from stages.core.params import Runtime
from stages.train import train
from stages.training import job
from stages.training.params import TrainParams
from tests.stages.training.support.tiny import RUNTIME, TRAIN

log = logging.getLogger("retune")


def main() -> None:
    adapter, most, *rest = sys.argv[1:]
    first, *pairs = rest or ["1"]
    logging.basicConfig(level="INFO", format="train: %(message)s", stream=sys.stdout)
    changed = {key: YAML(typ="safe").load(value) for key, value in (pair.split("=") for pair in pairs)}
    params = TrainParams.model_validate({**TRAIN, "logging_steps": 1, "eval_steps": None, "steps": 6})
    runtime = Runtime.model_validate({**RUNTIME, "micro_batch": 8, "save_steps": 2, **changed})
    load, passes = job.load_model, [0]

    def load_model(*rest: Any, **named: Any) -> Any:
        import torch

        model, tokenizer = load(*rest, **named)

        def ask(_: object, __: object, given: dict[str, Any]) -> None:
            passes[0] += 1
            rows = given["input_ids"].shape[0]
            # one forward pass a step as long as a micro-batch is a step
            if rows > int(most) and passes[0] >= int(first):
                torch.empty(rows << 44)

        model.get_base_model().register_forward_pre_hook(ask, with_kwargs=True)
        return model, tokenizer

    job.load_model = load_model
    try:
        train(Path("base"), Path("tokens"), Path("first"), Path(adapter), params, runtime)()
        write_json(Path("figures.json"), NOTES.figures)
    except StageError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
