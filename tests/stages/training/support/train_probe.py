"""Train the adapters of conftest's `trained`, and write down what the model's forward was given and how training failed.

Run in the folder of `tiny_base`. Not a test: Unsloth patches transformers for the whole process.
"""

import json
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from stages.contracts.tokens import TRAIN as TRAIN_FILE
from stages.contracts.tokens import read_tokens
from stages.core.asked_and_ran import AskedAndRan, compare
from stages.core.errors import StageError
from stages.core.execution import NOTES
from stages.core.params import Runtime
from stages.models.base_model import embedding_plan
from stages.train import RUNTIME_KEYS, train
from stages.training.checkpoints import Checkpoints
from stages.training.distributed.process_group import ProcessGroup
from stages.training.lora import load_model
from stages.training.observed_trainer import note_training
from stages.training.params import TrainParams
from stages.training.task import plan_steps
from stages.training.token_rows import TokenRows
from stages.training.trainer_setup import make_trainer, make_work
from stages.training.trainer_state import copy_trained
from stages.training.work import Work
from tests.stages.training.support.tiny import RUNTIME, TRAIN

PARAMS = TrainParams.model_validate(TRAIN)
FLATTENED = PARAMS.model_copy(update={"layout": "flattened"})


def part_one() -> None:
    runtime = Runtime.model_validate(RUNTIME)
    whole = runtime.model_copy(update={"micro_batch": 8})
    train(Path("base"), Path("tokens"), Path("first"), Path("adapter"), PARAMS, runtime)()
    train(Path("base"), Path("tokens"), Path("first"), Path("whole_step"), PARAMS, whole)()
    train(Path("base"), Path("tokens"), Path("first"), Path("flattened"), FLATTENED, whole)()
    curve = FLATTENED.model_copy(update={"logging_steps": 1, "eval_steps": None})
    train(Path("base"), Path("tokens"), Path("first"), Path("curve"), curve, whole)()
    train(Path("base"), Path("tokens_added"), Path("first"), Path("added"), PARAMS, runtime)()
    train(Path("tied"), Path("tokens_added"), Path("first"), Path("added_tied"), PARAMS, runtime)()


def part_two() -> None:
    runtime = Runtime.model_validate(RUNTIME)
    train(Path("base"), Path("tokens"), Path("first"), Path("again"), PARAMS, runtime)()
    found: dict[str, object] = {"ran": compare_notes(PARAMS, runtime)}
    found |= {"batches": batches_seen(runtime), "planted": planted_differences(runtime)}
    wild = PARAMS.model_copy(update={"learning_rate": 1e30, "warmup_steps": 0, "schedule": "constant"})
    try:
        train(Path("base"), Path("tokens"), Path("first"), Path("wild"), wild, runtime)()
    except StageError as error:
        found["wild"] = str(error)
    Path("probe.json").write_text(json.dumps(found))


def set_up(params: TrainParams, runtime: Runtime) -> tuple[Any, Work]:
    """A trainer that is ready to begin on base and tokens, and its work; checkpoints are in `.retune/NAME`."""
    tokens = Path("tokens")
    rows = TokenRows(read_tokens(tokens / TRAIN_FILE))
    embedding_rows, trained_rows = embedding_plan(Path("base"), tokens)
    model, tokenizer = load_model(
        Path("base"),
        tokens,
        params.lora,
        runtime,
        load_in_4bit=params.load_in_4bit,
        dtype=params.dtype,
        seed=params.seed,
        embedding_rows=embedding_rows,
        trained_rows=trained_rows,
        group=ProcessGroup(),
    )
    checkpoints = Checkpoints(Path(".retune/probe"), {})
    work = make_work(rows, plan_steps(rows, params), tokens, tokenizer, checkpoints, params, runtime, ProcessGroup())
    return make_trainer(model, tokenizer, tokens, work, params, runtime), work


def compare_notes(params: TrainParams, runtime: Runtime) -> dict[str, AskedAndRan]:
    """What was asked for against what this process has noted since it was asked last."""
    asked = {"train": params, "runtime": runtime}
    told = compare(asked, RUNTIME_KEYS, NOTES.observations)
    NOTES.observations.clear()
    return told


def planted_differences(runtime: Runtime) -> dict[str, AskedAndRan]:
    """What is told where a trainer is built otherwise than PARAMS ask for: as after a bug, or a fallback that nobody says."""
    planted = PARAMS.model_copy(
        update={
            "learning_rate": 0.02,
            "weight_decay": 0.5,
            "schedule": "cosine",
            "warmup_steps": 1,
            "load_in_4bit": False,
            "dtype": "bfloat16",
            "layout": "flattened",
            "conversations_per_step": 4,
            "steps": 6,
            "eval_steps": 3,
            "lora": PARAMS.lora.model_copy(update={"r": 4, "use_rslora": False, "dropout": 0.5}),
        }
    )
    trainer, work = set_up(planted, runtime)
    trainer.carry_out(work)
    note_training(trainer, work, PARAMS, checkpointing="off", fresh=True)
    return compare_notes(PARAMS, runtime)


def batches_seen(runtime: Runtime) -> list[dict[str, list[list[int]]]]:
    """What the base model's forward got in two steps, and the rows that the trainer says were in them."""
    trainer, work = set_up(PARAMS.model_copy(update={"steps": 2, "eval_steps": None}), runtime)
    seen: list[dict[str, list[list[int]]]] = []

    def look(_: object, __: object, given: dict[str, object]) -> None:
        if "labels" in given:
            seen.append({name: given[name].tolist() for name in ("input_ids", "labels", "attention_mask")})

    trainer.model.get_base_model().register_forward_pre_hook(look, with_kwargs=True)
    save_file(copy_trained(trainer.model), "initial.safetensors")
    trainer.carry_out(work)
    batches = [batch for step in (1, 2) for batch in work.batches(step)]
    for batch, given in zip(batches, seen, strict=True):
        given["rows"] = batch.rows
        given["wanted"] = [work.rows.labels[number].tolist() for number in batch.rows]
        given["wanted_ids"] = [work.rows.ids[number].tolist() for number in batch.rows]
    return seen


if __name__ == "__main__":
    {"one": part_one, "two": part_two}[sys.argv[1]]()
