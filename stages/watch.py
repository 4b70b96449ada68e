"""What is noted of every optimizer step (the step log, the ledger), and what stops a training that cannot be right."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from stages.contracts import adapter as contract
from stages.errors import StageError
from stages.layout import Plan
from stages.token_rows import TokenRows, name_rows

log = logging.getLogger("retune")

MOST_SKIPPED = 12
"""Steps in a row that float16's loss scaling may throw away, halving its scale (at first 65,536) each time."""


class Watch:
    """The notes of a training that is under way."""

    def __init__(
        self, plan: Plan, rows: TokenRows, *, logging_steps: int, eval_steps: int | None, patience: int | None
    ) -> None:
        self.plan = plan
        self.rows = rows
        self.logging_steps = logging_steps
        self.eval_steps = eval_steps
        self.patience = patience
        self.step = 0
        """The last step that has ended; from 1."""
        self.skipped: list[int] = []
        """Steps that float16's loss scaling threw away."""
        self.lines: list[contract.Step] = []
        """The step log so far."""
        self.labelled = 0
        self.losses: list[float] = []
        self.best_loss = math.inf
        self.best_step = 0
        self.measured_since_best = 0
        self.tokens_seen = 0
        """Tokens of the steps that this process took, without padding."""
        self.started, self.started_at = time.monotonic(), 0
        self.advance: Callable[[int], None] = lambda _: None
        """Told the tokens of every step: a progress bar's."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold for the notes to go on as if nothing had happened."""
        kept = ("step", "skipped", "lines", "labelled", "losses", "best_loss", "best_step", "measured_since_best")
        return {name: getattr(self, name) for name in kept}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The opposite of `state`."""
        for name, value in state.items():
            setattr(self, name, value)
        self.started_at = self.step

    def rows_of(self, step: int) -> list[int]:
        """The numbers of the rows that a step (from 1) is made of."""
        return [row for sequence in self.plan.steps[step - 1] for row in sequence]

    def end_step(self, step: int, logs: Mapping[str, float], *, skipped: bool = False) -> None:
        """Note the end of a step. Raises StageError with its rows if it learned nothing or its numbers are not finite."""
        loss, norm = float(logs["loss"]), float(logs["grad_norm"])
        rows = self.rows_of(step)
        names = name_rows([self.rows.row_ids[row] for row in rows])
        labelled = sum(self.rows.labelled[row] for row in rows)
        lower = "lower train.learning_rate, or set train.dtype to bfloat16 or float32"
        if skipped and math.isfinite(loss):
            self.skip(step, names, lower)
        elif not (math.isfinite(loss) and math.isfinite(norm)):
            raise StageError(f"step {step}: the loss is {loss} and the gradient's norm {norm} ({names}); {lower}")
        elif norm == 0 or labelled == 0:
            found = f"gradient norm {norm}, {labelled} labelled tokens"
            raise StageError(f"step {step} learned nothing: {found} ({names})")
        else:
            self.labelled += labelled
        self.step = step
        self.losses.append(loss)
        tokens = sum(self.rows.lengths[row] for row in rows)
        self.tokens_seen += tokens
        self.advance(tokens)
        steps = len(self.plan.steps)
        measured = self.eval_steps is not None and step % self.eval_steps == 0
        if step % self.logging_steps == 0 or step == steps or measured:
            self.lines.append(
                contract.Step(
                    step=step,
                    epoch=round(self.plan.epoch(step), 6),
                    loss=math.fsum(self.losses) / len(self.losses),
                    grad_norm=norm if math.isfinite(norm) else None,
                    learning_rate=float(logs["learning_rate"]),
                    tokens=self.labelled,
                    eval_loss=None,
                )
            )
            self.losses = []
            self.say(steps)

    def skip(self, step: int, names: str, lower: str) -> None:
        """Note a step whose gradient overflowed in float16: the weights stayed, the scale was halved. Raises StageError after many."""
        self.skipped.append(step)
        log.info(
            "step %d: the gradient overflowed in float16, so the step was not taken and the loss scale lowered", step
        )
        if self.skipped[-MOST_SKIPPED:] == list(range(step - MOST_SKIPPED + 1, step + 1)):
            raise StageError(f"{MOST_SKIPPED} steps up to step {step} overflowed in float16 ({names}); {lower}")

    def say(self, steps: int) -> None:
        """One line of the log for the last line of the step log."""
        line, seconds = self.lines[-1], max(time.monotonic() - self.started, 1e-9)
        left = seconds / max(self.step - self.started_at, 1) * (steps - self.step)
        norm = "overflow" if line["grad_norm"] is None else f"{line['grad_norm']:.3f}"
        log.info(
            "step %d/%d  loss %.4f  gradient %s  %.0f tokens/s  %.0f s left",
            self.step,
            steps,
            line["loss"],
            norm,
            self.tokens_seen / seconds,
            left,
        )

    def heldout(self, loss: float) -> bool:
        """Note the held-out loss after the step that has just ended; whether it is the lowest so far."""
        self.lines[-1]["eval_loss"] = loss
        better = loss < self.best_loss
        self.measured_since_best = 0 if better else self.measured_since_best + 1
        if better:
            self.best_loss, self.best_step = loss, self.step
        log.info(
            "step %d  held-out loss %.4f%s", self.step, loss, "" if better else f" (lowest: step {self.best_step})"
        )
        return better

    def out_of_patience(self) -> bool:
        """Whether the held-out loss has not fallen for as many measures as `train.early_stopping` allows."""
        return self.patience is not None and self.measured_since_best >= self.patience

    def rows_of_steps(self, last: int) -> list[list[int]]:
        """The rows that each step up to `last` has trained; none where the step was thrown away."""
        skipped = set(self.skipped)
        return [[] if step in skipped else self.rows_of(step) for step in range(1, last + 1)]


def ledger(rows: pa.Table, labelled: Sequence[int], rows_of_step: Sequence[Sequence[int]]) -> pa.Table:
    """The training ledger: for every training row its labelled tokens and the steps (from 1) that it was part of."""
    steps: list[list[int]] = [[] for _ in range(rows.num_rows)]
    for step, numbers in enumerate(rows_of_step, start=1):
        for number in numbers:
            steps[number].append(step)
    return pa.table([rows["row_id"], pa.array(labelled, pa.int64()), steps], schema=contract.LEDGER_SCHEMA)
