import json
import math

import pyarrow as pa
import pytest

from stages.contracts import adapter as contract
from stages.contracts.tokens import SCHEMA
from stages.core.errors import StageError
from stages.training.step_log import MOST_SKIPPED, StepLog, make_ledger
from stages.training.step_plan import StepPlan
from stages.training.token_rows import TokenRows

LABELS = [[1, 2], [-100, 3, -100], [4, 5, 6, 7]]
ROWS = TokenRows(pa.table([["first", "second", "third"], LABELS, LABELS], schema=SCHEMA))


def watch(steps: int = 7, **changed: int | None) -> StepLog:
    plan = StepPlan([[[2], [0]]] * steps, 3)
    return StepLog(plan, ROWS, **{"logging_steps": 1, "eval_steps": None, "patience": None, **changed})


def logs(loss: float = 1.0, norm: float = 1.0) -> dict[str, float]:
    return {"loss": loss, "grad_norm": norm, "learning_rate": 0.1}


@pytest.mark.parametrize(
    ("loss", "norm", "said"),
    [(1.0, 0.0, "learned nothing"), (math.nan, 1.0, "loss is nan"), (1.0, math.inf, "norm inf")],
)
def test_step_that_cannot_be_right_stops_with_its_rows(loss: float, norm: float, said: str) -> None:
    noted = watch()
    with pytest.raises(StageError, match=f"step 5.*{said}.*") as error:
        noted.end_step(5, logs(loss, norm))
    assert "rows third, first" in str(error.value)
    assert noted.step == 0


def test_step_without_a_labelled_token_stops_with_its_rows() -> None:
    noted = StepLog(
        StepPlan([[[0]]], 1),
        TokenRows(pa.table([["only"], [[5]], [[-100]]], schema=SCHEMA)),
        logging_steps=1,
        eval_steps=None,
        patience=None,
    )
    with pytest.raises(StageError, match=r"step 1 learned nothing: .* 0 labelled tokens .row only"):
        noted.end_step(1, logs())


def test_step_log_has_a_line_for_every_interval_measure_and_the_last_step() -> None:
    noted = watch(logging_steps=4, eval_steps=3)
    for step in range(1, 8):
        noted.end_step(step, logs(float(step)))
        if step % 3 == 0:
            noted.note_heldout(step / 10)
    assert [(line["step"], line["loss"], line["tokens"], line["eval_loss"]) for line in noted.lines] == [
        (3, 2.0, 18, 0.3),
        (4, 4.0, 24, None),
        (6, 5.5, 36, 0.6),
        (7, 7.0, 42, None),
    ]
    assert noted.lines[0]["epoch"] == 2.0
    assert noted.tokens_seen == 42


def test_notes_restored_from_a_state_go_on_as_if_nothing_had_happened() -> None:
    whole, before, after = (watch(logging_steps=4, eval_steps=3) for _ in range(3))
    for step in range(1, 8):
        for noted in [whole, before if step <= 3 else after]:
            noted.end_step(step, logs(step / 7))
            if step == 3:
                noted.note_heldout(0.5)
        if step == 3:
            after.restore(json.loads(json.dumps(before.state())))
    assert after.state() == whole.state()


def test_state_in_words_has_the_last_heldout_loss_and_the_memory() -> None:
    noted = watch(logging_steps=1, eval_steps=2)
    noted.memory = lambda: 4 * 2**30
    told: list[str] = []
    noted.advance = lambda _count, note=None, /, *, earlier=False: told.append(note() if note else f"earlier {earlier}")
    for step in range(1, 4):
        noted.end_step(step, logs(step / 8))
        if step == 2:
            noted.note_heldout(0.5)
    assert told[0] == "step 1 of 7, loss 0.1250, 4.00 GiB"
    assert told[2] == "step 3 of 7, loss 0.3750, held-out 0.5000, 4.00 GiB"


def test_memory_of_a_process_is_what_it_holds() -> None:
    assert 10 * 2**20 < watch().memory() < 2**35


def test_notes_restored_tell_the_bar_what_was_done_before() -> None:
    before, after = watch(), watch()
    for step in (1, 2):
        before.end_step(step, logs())
    told: list[tuple[int, bool]] = []
    after.advance = lambda count, _note=None, /, *, earlier=False: told.append((count, earlier))
    after.restore(before.state())
    after.end_step(3, logs())
    assert told == [(12, True), (6, False)]


def test_step_that_overflowed_in_float16_is_logged_but_in_no_ledger() -> None:
    noted = watch()
    noted.end_step(1, logs(2.0, math.inf), skipped=True)
    noted.end_step(2, logs())
    assert [line["grad_norm"] for line in noted.lines] == [None, 1.0]
    assert [line["tokens"] for line in noted.lines] == [0, 6]
    assert noted.rows_of_steps(2) == [[], [2, 0]]


def test_overflow_that_does_not_end_stops_with_the_rows() -> None:
    noted = watch(steps=MOST_SKIPPED + 3)
    noted.end_step(1, logs())
    for step in range(2, MOST_SKIPPED + 1):
        noted.end_step(step, logs(2.0, math.inf), skipped=True)
    with pytest.raises(StageError, match=f"{MOST_SKIPPED} steps up to step {MOST_SKIPPED + 1} overflowed .*rows third"):
        noted.end_step(MOST_SKIPPED + 1, logs(2.0, math.inf), skipped=True)


def test_loss_that_is_no_number_stops_a_skipped_step_too() -> None:
    with pytest.raises(StageError, match="loss is nan"):
        watch().end_step(1, logs(math.nan, math.inf), skipped=True)


def test_patience_ends_after_so_many_measures_without_a_new_lowest() -> None:
    noted = watch(eval_steps=1, patience=2)
    seen = []
    for step, loss in enumerate([3.0, 2.0, 2.5, 2.0], start=1):
        noted.end_step(step, logs())
        seen.append((noted.note_heldout(loss), noted.out_of_patience()))
    assert seen == [(True, False), (True, False), (False, False), (False, True)]
    assert noted.best_step == 2


def test_ledger_names_every_step_of_a_row_and_rows_never_reached() -> None:
    table = make_ledger(ROWS.table, ROWS.labelled, [[0, 1], [1]])
    assert table.schema == contract.LEDGER_SCHEMA
    assert table["labelled_tokens"].to_pylist() == [2, 1, 4]
    assert table["steps"].to_pylist() == [[1], [1, 2], []]
