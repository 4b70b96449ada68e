"""TRL's trainer under watch: which rows each step trained on, its loss and gradient, and when to stop with the rows' ids."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stages.contracts import adapter as contract
from stages.contracts.tokens import NOT_TRAINED
from stages.errors import StageError

if TYPE_CHECKING:
    import torch
    from trl import SFTTrainer

log = logging.getLogger("retune")

NAMED_ROWS = 8
"""Row ids that an error names at most."""


class Collator:
    """Rows to one batch, padded on the right to its longest: input_ids, attention_mask, labels, and `row`, the rows' numbers."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> "dict[str, torch.Tensor]":
        """Rows of train.arrow with their number in `row`, any lengths."""
        import torch

        shape = (len(rows), max(len(row["input_ids"]) for row in rows))
        batch = {
            "input_ids": torch.full(shape, self.pad_id),
            "attention_mask": torch.zeros(shape, dtype=torch.long),
            "labels": torch.full(shape, NOT_TRAINED),
        }
        for place, row in enumerate(rows):
            length = len(row["input_ids"])
            batch["input_ids"][place, :length] = torch.tensor(row["input_ids"])
            batch["attention_mask"][place, :length] = 1
            batch["labels"][place, :length] = torch.tensor(row["labels"])
        batch["row"] = torch.tensor([row["row"] for row in rows])
        return batch


class Watch:
    """What is noted of every optimizer step, and what stops a training that cannot be right."""

    def __init__(self, row_ids: Sequence[str], logging_steps: int, eval_steps: int | None, eval_rows: int) -> None:
        self.row_ids = row_ids
        self.logging_steps = logging_steps
        self.eval_steps = eval_steps
        self.eval_rows = eval_rows
        self.rows_of_step: list[list[int]] = []
        """The numbers of the rows that each step was trained on."""
        self.lines: list[contract.Step] = []
        """The step log so far."""
        self.tokens_seen = 0
        """Tokens of all steps, with or without a label, without padding."""
        self.labelled = 0
        self.losses: list[float] = []
        self.step_rows: list[int] = []
        self.step_labelled = 0
        self.started = time.monotonic()

    def micro_batch(self, rows: Sequence[int], labelled: int, tokens: int) -> None:
        """Note a micro-batch of the step that is under way."""
        self.step_rows += rows
        self.step_labelled += labelled
        self.tokens_seen += tokens

    def end_step(self, step: int, steps: int, epoch: float, logs: Mapping[str, float]) -> None:
        """Note the end of a step. Raises StageError with its rows if it learned nothing or its numbers are not finite."""
        loss, norm = float(logs["loss"]), float(logs["grad_norm"])
        names = name_rows([self.row_ids[row] for row in self.step_rows])
        if not (math.isfinite(loss) and math.isfinite(norm)):
            lower = "lower train.learning_rate, or set train.dtype to bfloat16 or float32"
            raise StageError(f"step {step}: the loss is {loss} and the gradient's norm {norm} ({names}); {lower}")
        if norm == 0 or self.step_labelled == 0:
            found = f"gradient norm {norm}, {self.step_labelled} labelled tokens"
            raise StageError(f"step {step} learned nothing: {found} ({names})")
        self.rows_of_step.append(self.step_rows)
        self.labelled += self.step_labelled
        self.losses.append(loss)
        self.step_rows, self.step_labelled = [], 0
        measured = self.eval_steps is not None and step % self.eval_steps == 0
        if step % self.logging_steps == 0 or step == steps or measured:
            line = contract.Step(
                step=step,
                epoch=round(epoch, 6),
                loss=math.fsum(self.losses) / len(self.losses),
                grad_norm=norm,
                learning_rate=float(logs["learning_rate"]),
                tokens=self.labelled,
                eval_loss=None,
            )
            self.losses = []
            self.lines.append(line)
            left = (time.monotonic() - self.started) / step * (steps - step)
            log.info("step %d/%d  loss %.4f  gradient %.3f  %.0f s left", step, steps, line["loss"], norm, left)

    def heldout(self, loss: float) -> None:
        """Note the held-out loss after the step that has just ended."""
        self.lines[-1]["eval_loss"] = loss
        log.info("step %d  held-out loss %.4f", self.lines[-1]["step"], loss)


def trainer_class() -> "type[SFTTrainer]":
    """TRL's SFTTrainer, as Unsloth has patched it, that lets a `Watch` see every step and measures the held-out loss our way.

    A function, since the class it extends exists only after `import unsloth`.
    """
    from transformers.trainer_callback import PrinterCallback
    from trl import SFTTrainer

    class WatchedTrainer(SFTTrainer):  # type: ignore[misc, unused-ignore]
        def watch_with(self, watch: Watch) -> None:
            """Must be called before `train`."""
            self.watch = watch
            self.remove_callback(PrinterCallback)

        def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:  # noqa: ANN401
            rows = inputs.pop("row").tolist()
            self.watch.micro_batch(rows, count_labelled(inputs), int(inputs["attention_mask"].sum()))
            loss = super().training_step(model, inputs, *rest, **named)
            if not self.watch.rows_of_step:
                check_gradients(model)
            return loss

        def log(self, logs: dict[str, float], *rest: Any, **named: Any) -> None:  # noqa: ANN401
            super().log(logs, *rest, **named)
            if "grad_norm" in logs:
                self.watch.end_step(self.state.global_step, self.state.max_steps, float(self.state.epoch or 0), logs)

        def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:  # noqa: ANN401
            loss = heldout_loss(self, self.watch.eval_rows)
            metrics = {} if loss is None else {"eval_loss": loss}
            if loss is not None:
                self.watch.heldout(loss)
            self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            return metrics

    return WatchedTrainer


def check_gradients(model: "torch.nn.Module") -> None:
    """Raise StageError if a part of the adapter got no gradient: a patched forward may pass it by, and it would stay as it was."""
    adapter = ("lora_", "trainable_tokens_delta")
    parameters = ((name, value) for name, value in model.named_parameters() if any(part in name for part in adapter))
    missing = [name for name, value in parameters if value.grad is None]
    if missing:
        raise StageError(
            f"{len(missing)} parts of the adapter are not trained, {missing[0]} among them: this model is not supported"
        )


def count_labelled(batch: "Mapping[str, torch.Tensor]") -> int:
    """Tokens of a batch that the loss counts: labelled, and not the first of their row, which nothing predicts."""
    return int((batch["labels"][:, 1:] != NOT_TRAINED).sum())


def heldout_loss(trainer: "SFTTrainer", count: int) -> float | None:
    """Mean loss of a labelled token over the first held-out rows; None if there is none.

    The trainer's own is a mean of batches' means, which moves with the size of a batch.
    """
    import torch

    rows, size = trainer.eval_dataset, trainer.args.per_device_train_batch_size
    total, labelled = 0.0, 0
    trainer.model.eval()
    with torch.no_grad(), trainer.compute_loss_context_manager():
        for start in range(0, min(count, len(rows)), size):
            batch = trainer.data_collator(
                [rows[number] for number in range(start, min(start + size, count, len(rows)))]
            )
            inputs = {name: value.to(trainer.args.device) for name, value in batch.items() if name != "row"}
            if here := count_labelled(inputs):
                total += float(trainer.model(**inputs).loss) * here
                labelled += here
    trainer.model.train()
    return total / labelled if labelled else None


def name_rows(row_ids: Sequence[str]) -> str:
    """`row ID` or `rows ID, ID, ... and N more`, for errors."""
    more = f" and {len(row_ids) - NAMED_ROWS} more" if len(row_ids) > NAMED_ROWS else ""
    return ("row " if len(row_ids) == 1 else "rows ") + ", ".join(row_ids[:NAMED_ROWS]) + more
