"""What is noted of every optimizer step (the step log, the ledger), and what stops a training that cannot be right."""

import logging
import math
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from stages.contracts import adapter as contract
from stages.core.errors import StageError
from stages.training.step_plan import StepPlan
from stages.training.token_rows import TokenRows, name_rows

if TYPE_CHECKING:
    from stages.show.progress import AdvanceWithNote

log = logging.getLogger("retune")

MOST_SKIPPED = 12
"""Steps in a row that float16's loss scaling may throw away, halving its scale (at first 65,536) each time."""


class StepLog:
    """The notes of a training that is under way."""

    def __init__(
        self, plan: StepPlan, rows: TokenRows, *, logging_steps: int, eval_steps: int | None, patience: int | None
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
        self.advance: AdvanceWithNote = no_bar
        """Told the tokens of every step: a progress bar's."""
        self.memory: Callable[[], int] = peak_resident
        """Bytes that this process has held at most; on a GPU, of that."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold for the notes to go on as if nothing had happened."""
        kept = ("step", "skipped", "lines", "labelled", "losses", "best_loss", "best_step", "measured_since_best")
        return {name: getattr(self, name) for name in kept}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The opposite of `state`."""
        for name, value in state.items():
            setattr(self, name, value)
        self.started_at = self.step
        self.advance(sum(self.tokens_of(step) for step in range(1, self.step + 1)), earlier=True)

    def rows_of(self, step: int) -> list[int]:
        """The numbers of the rows that a step (from 1) is made of."""
        return [row for sequence in self.plan.steps[step - 1] for row in sequence]

    def tokens_of(self, step: int) -> int:
        """Tokens of a step (from 1), without padding."""
        return sum(self.rows.lengths[row] for row in self.rows_of(step))

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
        tokens, steps = self.tokens_of(step), len(self.plan.steps)
        self.tokens_seen += tokens
        self.advance(tokens, lambda: self.state_in_words(loss))
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

    def state_in_words(self, loss: float) -> str:
        """`step 12 of 60, loss 1.2345, held-out 1.3012, 3.92 GiB`: what a progress bar shows beside the tokens; `loss` is the step's."""
        measured = next((line["eval_loss"] for line in reversed(self.lines) if line["eval_loss"] is not None), None)
        heldout = "" if measured is None else f", held-out {measured:.4f}"
        return f"step {self.step} of {len(self.plan.steps)}, loss {loss:.4f}{heldout}, {self.memory() / 2**30:.2f} GiB"

    def say(self, steps: int) -> None:
        """One line of the log for the last line of the step log."""
        line, seconds = self.lines[-1], max(time.monotonic() - self.started, 1e-9)
        left = seconds / max(self.step - self.started_at, 1) * (steps - self.step)
        norm = "overflow" if line["grad_norm"] is None else f"{line['grad_norm']:.3f}"
        log.info(
            "step %d/%d  loss %.4f  gradient %s  %.0f tokens/s  %.2f GiB  %.0f s left",
            self.step,
            steps,
            line["loss"],
            norm,
            self.tokens_seen / seconds,
            self.memory() / 2**30,
            left,
        )

    def note_heldout(self, loss: float) -> bool:
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


def no_bar(_count: int, _note: Callable[[], str] | None = None, /, *, earlier: bool = False) -> None:
    """Where nothing is shown."""


def peak_resident() -> int:
    """Bytes of memory that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def make_ledger(rows: pa.Table, labelled: Sequence[int], rows_of_step: Sequence[Sequence[int]]) -> pa.Table:
    """The training ledger: for every training row its labelled tokens and the steps (from 1) that it was part of."""
    steps: list[list[int]] = [[] for _ in range(rows.num_rows)]
    for step, numbers in enumerate(rows_of_step, start=1):
        for number in numbers:
            steps[number].append(step)
    return pa.table([rows["row_id"], pa.array(labelled, pa.int64()), steps], schema=contract.LEDGER_SCHEMA)
