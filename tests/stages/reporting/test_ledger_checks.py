"""What the audit says where ledger, step log, retune.json and the labels of data/tokens do not tell the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from stages.contracts.adapter import LEDGER_SCHEMA, Step, Training, read_trained
from stages.contracts.tokens import SCHEMA
from stages.reporting.ledger_checks import judge_ledger, judge_tokens
from tests.adapter_files import make_steps, write_training

STEPS = {"a": [1, 3], "b": [1], "c": [2], "d": []}
LABELLED = {"a": 2, "b": 1, "c": 3, "d": 4}
LABELS = {name: [[-100] * 2 + [5] * count] for name, count in LABELLED.items()}


class Trained:
    """What the check reads of a training, right as it stands; a test breaks one thing."""

    def __init__(self, folder: Path, kept: int = 3, **more: Any) -> None:
        write_training(folder, STEPS, LABELLED, kept=kept, **more)
        ledger, self.log, self.training = read_trained(folder)
        self.rows: list[dict[str, Any]] = ledger.to_pylist()
        self.labels = {name: list(labels[0]) for name, labels in LABELS.items()}

    def judge(self) -> dict[str, Any]:
        ids = list(self.labels.values())
        train = pa.table([list(self.labels), ids, ids], schema=SCHEMA)
        ledger = pa.Table.from_pylist(self.rows, schema=LEDGER_SCHEMA)
        return judge_ledger(ledger, self.log, self.training, train)


@pytest.fixture
def told(tmp_path: Path) -> Trained:
    return Trained(tmp_path)


def test_training_whose_files_tell_the_same_is_counted(told: Trained) -> None:
    check = told.judge()
    assert (check["name"], check["passed"], check["found"], check["floor"]) == ("ledger", True, 0, 0)
    assert check["says"] == (
        "3 of 4 training conversations were trained (75.0%) in 3 steps; 6 of 10 labelled tokens were reached (60.0%), "
        "with repetitions 8 were trained"
    )


def put(place: int, **changed: Any) -> Callable[[Trained], object]:
    return lambda trained: trained.log[place].update(changed)  # type: ignore[typeddict-item]


def row(place: int, **changed: Any) -> Callable[[Trained], object]:
    return lambda trained: trained.rows[place].update(changed)


BREAKS: dict[str, tuple[Callable[[Trained], object], str]] = {
    "row_that_is_none": (
        row(1, row_id="z"),
        "the ledger's rows are not those of train.arrow (1 of 4 are none of its 4, 1 are missing)",
    ),
    "row_left_out": (lambda trained: trained.rows.pop(3), "(0 of 3 are none of its 4, 1 are missing)"),
    "rows_in_another_order": (lambda trained: trained.rows.reverse(), "0 are missing: another order, or rows twice)"),
    "labels_of_another_template": (
        lambda trained: trained.labels.update(d=[5]),
        "the ledger has another number of labelled tokens than train.arrow has labels for 1 row (d)",
    ),
    "step_beyond_the_last": (row(0, steps=[1, 4]), "the ledger has steps that are none of the adapter's 3, for 1 row (a)"),
    "step_before_the_first": (row(0, steps=[0, 3]), "the ledger has steps that are none of the adapter's 3, for 1 row (a)"),
    "step_twice": (row(0, steps=[1, 1, 3]), "the ledger has a step twice, or out of order, for 1 row (a)"),
    "step_that_a_row_lost": (row(1, steps=[]), "up to step 1 the step log counts 3 labelled tokens, the ledger 2"),
    "step_that_a_row_won": (row(3, steps=[3]), "up to step 3 the step log counts 8 labelled tokens, the ledger 12"),
    "log_of_other_tokens": (put(1, tokens=7), "up to step 2 the step log counts 7 labelled tokens, the ledger 6"),
    "log_that_falls": (put(1, tokens=1), "the step log's steps and tokens do not rise from line to line"),
    "log_that_goes_back": (put(2, step=2), "the step log's steps and tokens do not rise from line to line"),
    "log_of_other_epochs": (put(1, epoch=0.5), "up to step 2 the step log has 0.5 epochs, the ledger 0.75"),
    "log_of_a_skipped_step": (put(1, grad_norm=None), "step 2 has 1 row in the ledger, and in the step log it was skipped"),
    "log_cut_off": (lambda trained: trained.log.pop(), "the adapter is that of step 3, of which the step log has no line (its last is of step 2)"),
    "log_that_is_empty": (lambda trained: trained.log.clear(), "the step log is empty"),
    "adapter_of_another_step": (
        lambda trained: trained.training.update(steps=2),
        "the ledger has steps that are none of the adapter's 2, for 1 row (a)",
    ),
    "nothing_trained": (
        lambda trained: [one.update(steps=[]) for one in trained.rows],
        "no conversation was trained: no row of the ledger has a step",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_contradiction_is_named_and_the_check_says_no(told: Trained, name: str) -> None:
    damage, said = BREAKS[name]
    damage(told)
    check = told.judge()
    assert check["passed"] is False
    assert said in check["says"]
    assert "were trained" not in check["says"], "counts that contradict one another are none"


def test_step_without_rows_was_skipped_or_is_missed(tmp_path: Path) -> None:
    rows = {**STEPS, "c": []}
    log = make_steps(rows, LABELLED, 3)
    told = Trained(tmp_path, log=log)
    told.rows[2]["steps"] = []
    assert "in 2 steps, 1 more was skipped" in told.judge()["says"]
    told.log[1]["grad_norm"] = 1.0
    assert told.judge()["says"] == "step 2 has 0 rows in the ledger, and in the step log it was taken"


@pytest.mark.parametrize(("losses", "passed"), [((0.1, 0.2), True), ((0.2, 0.1), False), ((None, None), False)])
def test_adapter_of_an_earlier_step_is_that_of_the_lowest_heldout_loss(
    tmp_path: Path, losses: tuple[float | None, float | None], passed: bool
) -> None:
    log: list[Step] = make_steps({**STEPS, "d": [4, 5]}, LABELLED, 5)
    log[2]["eval_loss"], log[4]["eval_loss"] = losses
    check = Trained(tmp_path, log=log).judge()
    assert check["passed"] is passed
    said = (
        "2 later ones are not in the adapter"
        if passed
        else "the adapter is that of step 3, neither the last (5) nor that of"
    )
    assert said in check["says"]


def test_nothing_trained_of_nothing_planned_is_no(tmp_path: Path) -> None:
    write_training(tmp_path, {}, kept=1)
    ledger, log, training = read_trained(tmp_path)
    empty = pa.table([[], [], []], schema=SCHEMA)
    check = judge_ledger(ledger, log, Training(**training), empty)
    assert check["passed"] is False
    assert "no conversation was trained" in check["says"]


def test_heldout_row_that_was_trained_leaks_and_is_none_of_the_rows() -> None:
    def table(*names: str) -> pa.Table:
        return pa.table({"row_id": pa.array(names, pa.string())})

    rows = pa.table({"row_id": ["a", "h"], "split": ["train", "heldout"]})
    checks = {check["name"]: check for check in judge_tokens(rows, table("a"), table("h"), table(), table("a", "h"))}
    assert checks["tokens_accounted"]["passed"] is True
    assert (checks["no_leak"]["passed"], checks["no_leak"]["says"]) == (
        False,
        "1 held-out conversations stand among the training conversations",
    )
