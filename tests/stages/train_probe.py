"""Train the adapters of conftest's `trained`, and write down what the model's forward was given and how training failed.

Run in the folder of `tiny_base`. Not a test: Unsloth patches transformers for the whole process.
"""

import json
import sys
from pathlib import Path

from stages.contracts.tokens import TRAIN as TRAIN_FILE
from stages.contracts.tokens import read_tokens
from stages.errors import StageError
from stages.model import embedding_plan
from stages.params import Runtime
from stages.train import TrainParams, load_model, make_trainer, train
from tests.stages.tiny import RUNTIME, TRAIN

PARAMS = TrainParams.model_validate(TRAIN)


def part_one() -> None:
    runtime = Runtime.model_validate(RUNTIME)
    train(Path("base"), Path("tokens"), Path("adapter"), PARAMS, runtime)
    train(Path("base"), Path("tokens"), Path("whole_step"), PARAMS, runtime.model_copy(update={"micro_batch": 8}))
    train(Path("base"), Path("tokens_added"), Path("added"), PARAMS, runtime)
    train(Path("tied"), Path("tokens_added"), Path("added_tied"), PARAMS, runtime)


def part_two() -> None:
    runtime = Runtime.model_validate(RUNTIME)
    train(Path("base"), Path("tokens"), Path("again"), PARAMS, runtime)
    found: dict[str, object] = {"batches": batches_seen(runtime)}
    wild = PARAMS.model_copy(update={"learning_rate": 1e30, "warmup_steps": 0, "schedule": "constant"})
    try:
        train(Path("base"), Path("tokens"), Path("wild"), wild, runtime)
    except StageError as error:
        found["wild"] = str(error)
    Path("probe.json").write_text(json.dumps(found))


def batches_seen(runtime: Runtime) -> list[dict[str, list[list[int]]]]:
    """What the base model's forward got in two steps, and the rows that the trainer says were in them."""
    params = PARAMS.model_copy(update={"steps": 2, "eval_steps": None})
    tokens = Path("tokens")
    rows, trained_rows = embedding_plan(Path("base"), tokens)
    model, tokenizer = load_model(Path("base"), tokens, params, runtime, rows, trained_rows)
    trainer = make_trainer(model, tokenizer, tokens, params, runtime)
    seen: list[dict[str, list[list[int]]]] = []

    def look(_: object, __: object, given: dict[str, object]) -> None:
        if "labels" in given:
            seen.append({name: given[name].tolist() for name in ("input_ids", "labels", "attention_mask")})

    model.get_base_model().register_forward_pre_hook(look, with_kwargs=True)
    trainer.train()
    table = read_tokens(tokens / TRAIN_FILE)
    numbers = [number for step in trainer.watch.rows_of_step for number in step]
    for batch in seen:
        batch["rows"] = [numbers.pop(0) for _ in batch["input_ids"]]
        batch["wanted"] = [table["labels"][number].as_py() for number in batch["rows"]]
        batch["wanted_ids"] = [table["input_ids"][number].as_py() for number in batch["rows"]]
    return seen


if __name__ == "__main__":
    {"one": part_one, "two": part_two}[sys.argv[1]]()
