"""What Unsloth's model computes for flat batches, beside the same conversations one by one; written to layout_probe.json.

    python layout_probe.py [DEVICE [DTYPE]]     cpu and float32, or as runtime.device and train.dtype

Run in the folder of `tiny_base`. Not a test: Unsloth patches transformers for the whole process.
"""

import json
import sys
from pathlib import Path
from typing import Any

from stages.core.errors import StageError
from stages.training.batches import flatten_rows, pad_rows
from stages.training.isolation import check_apart
from stages.training.memory.plan import FittedRuntime
from stages.training.params import TrainParams
from stages.training.token_rows import TokenRows
from tests.stages.training.support.tiny import RUNTIME, TRAIN
from tests.stages.training.support.train_probe import set_up

PACKED = {
    "layout": "packed",
    "conversations_per_step": None,
    "tokens_per_step": 512,
    "pack_length": 256,
    "eval_steps": 2,
}
ROWS = [3, 8, 2, 5, 11]
SHORT = [3, 6]
ROOM = 40
"""Tokens of filling at the end."""


def probe(device: str = "cpu", dtype: str = "float32") -> None:
    found: dict[str, Any] = {}
    for checkpointing in ("off", "unsloth"):
        policy = {"gradient_checkpointing": checkpointing, "kept_layers": None if checkpointing == "off" else 0}
        runtime = FittedRuntime.model_validate(
            {**RUNTIME, "device": device, "micro_batch": 8, "loss_rows": 1024, **policy}
        )
        trainer, work = set_up(TrainParams.model_validate({**TRAIN, "layout": "flattened", "dtype": dtype}), runtime)
        stir(trainer.model)
        found[checkpointing] = {"equal": same_as_alone(trainer, work.rows), "apart": apart(trainer, work.rows)}
    found["blind"] = blind(trainer, work)
    trainer, work = set_up(TrainParams.model_validate({**TRAIN, **PACKED, "dtype": dtype}), runtime)
    found["packed"] = packed_training(trainer, work)
    Path("layout_probe.json").write_text(json.dumps(found))


def stir(model: Any) -> None:
    """Give the adapter's B values, so that A has a gradient from the start."""
    import torch

    torch.manual_seed(5)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.copy_(torch.randn_like(value) * 0.05)


def same_as_alone(trainer: Any, rows: TokenRows) -> dict[str, float]:
    """Loss and gradients of one flat batch (with filling) against the sum over its conversations; both count the same tokens."""
    count = sum(rows.labelled[row] for row in ROWS)
    together, ours = gradients(
        trainer, [flatten_rows(rows, ROWS, 4, sum(rows.lengths[row] for row in ROWS) + ROOM)], count
    )
    alone, theirs = gradients(trainer, [pad_rows(rows, [row], 4) for row in ROWS], count)
    scale = max(float(value.abs().max()) for value in theirs.values())
    furthest = max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)
    smallest = min(float(value.abs().max()) for value in theirs.values())
    return {"together": together, "alone": alone, "gradient": furthest / scale, "smallest": smallest / scale}


def gradients(trainer: Any, batches: list[dict[str, Any]], count: int) -> tuple[float, dict[str, Any]]:
    trainer.model.zero_grad()
    trainer.model.train()
    total = 0.0
    for batch in batches:
        loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch), num_items_in_batch=count)
        loss.backward()
        total += float(loss.detach())
    return total, {
        name: value.grad.clone() for name, value in trainer.model.named_parameters() if value.grad is not None
    }


def apart(trainer: Any, rows: TokenRows) -> dict[str, list[float]]:
    """How far the logits of each conversation move when the second one has other tokens; with its boundaries, and without them."""
    return {
        "with": moved(trainer, rows, ROWS, 1, ()),
        # few: without boundaries Unsloth cuts a row at the longest conversation
        "without": moved(trainer, rows, SHORT, 0, ("packed_seq_lengths", "position_ids")),
    }


def moved(trainer: Any, rows: TokenRows, chosen: list[int], other: int, without: tuple[str, ...]) -> list[float]:
    import torch

    lengths = [rows.lengths[row] for row in chosen]
    start = sum(lengths[:other])
    logits = []
    for stirred in (False, True):
        batch = flatten_rows(rows, chosen, 4, None)
        if stirred:
            batch["input_ids"][0, start : start + lengths[other]] = 7
        inputs = {key: value for key, value in batch.items() if key not in (*without, "labels")}
        with torch.no_grad():
            trainer.model.train()
            logits.append(trainer.model(**trainer._prepare_inputs(inputs), use_cache=False).logits[0].float())
    return [float(part.abs().max()) for part in (logits[0] - logits[1]).split(lengths)]


def blind(trainer: Any, work: Any) -> list[str]:
    """What the check before training says of the model as it is, and of one that does not look at boundaries."""

    class Blind:
        def train(self, *_: object) -> None:
            trainer.model.train()

        def __call__(self, packed_seq_lengths: object, position_ids: object, **inputs: Any) -> Any:  # noqa: ARG002
            return trainer.model(**inputs)

    # few: on CUDA Unsloth cuts a row without boundaries at the longest conversation, but not its labels, and reads past its end
    short = TokenRows(work.rows.table.take(SHORT))
    said = []
    for model, rows in ((trainer.model, work.rows), (Blind(), short)):
        try:
            check_apart(model, rows, trainer._prepare_inputs, 4)
            said.append("")
        except StageError as error:
            said.append(str(error))
    return said


def packed_training(trainer: Any, work: Any) -> dict[str, Any]:
    """What the model's forward got in three packed steps, and what was meant."""
    work.step_log.plan.steps[3:] = []
    trainer.args.max_steps = 3
    seen: list[dict[str, Any]] = []

    def look(_: object, __: object, given: dict[str, Any]) -> None:
        if "num_items_in_batch" in given:
            seen.append({name: value.tolist() for name, value in given.items() if hasattr(value, "tolist")})

    trainer.model.get_base_model().register_forward_pre_hook(look, with_kwargs=True)
    trainer.carry_out(work)
    batches = [batch for step in (1, 2, 3) for batch in work.batches(step)]
    wanted = [
        {
            "ids": [work.rows.ids[row].tolist() for row in batch.rows],
            "labels": [work.rows.labels[row].tolist() for row in batch.rows],
        }
        for batch in batches
    ]
    return {"seen": seen, "wanted": wanted, "eval_loss": [line["eval_loss"] for line in work.step_log.lines]}


if __name__ == "__main__":
    probe(*sys.argv[1:])
