"""The counts of what was trained, on runs that the step plan, the step log and the ledger of a real training make; only the losses are made up."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from retune.summary import lines, read_summary
from stages.contracts import adapter as contract
from stages.contracts import tokens as token_files
from stages.contracts.adapter import TrainingCounts, read_trained
from stages.reporting.ledger_checks import judge_ledger
from stages.reporting.training_counts import count_trained, describe_trained, format_share
from stages.training.step_log import StepLog, make_ledger
from stages.training.step_plan import Layout, make_step_plan
from stages.training.token_rows import TokenRows
from tests.adapter_files import write_training
from tests.project import ROOT
from tests.stages.test_report import facts, made

ROWS = 23
TALKS = [(f"question {number}", "so it is " * (number % 5 + 1)) for number in range(ROWS)]


@dataclass
class Planned:
    """A training to be made up."""

    steps: int | None = None
    epochs: float | None = None
    layout: Layout = "padded"
    sequences: int = 4
    pack_length: int | None = None
    skipped: tuple[int, ...] = ()
    eval_losses: dict[int, float] = field(default_factory=dict)
    patience: int | None = None
    keep_best: bool = False


RUNS = {
    "ends_in_the_middle_of_an_epoch": Planned(steps=3),
    "ends_in_the_middle_of_the_second_epoch": Planned(steps=8),
    "three_epochs": Planned(epochs=3),
    "packed": Planned(epochs=2.5, layout="packed", sequences=1, pack_length=100),
    "packed_ends_in_an_epoch": Planned(steps=2, layout="packed", sequences=2, pack_length=100),
    "skipped_steps": Planned(steps=7, skipped=(1, 2, 7)),
    "early_stopping_keeps_the_best": Planned(
        epochs=3, eval_losses={2: 0.5, 4: 0.25, 6: 0.25, 8: 0.75}, patience=2, keep_best=True
    ),
    "keeps_the_best_of_a_whole_run": Planned(steps=9, eval_losses={3: 0.5, 6: 0.75, 9: 0.75}, keep_best=True),
}


def train(tokens: Path, folder: Path, planned: Planned) -> list[list[int]]:
    """Write data/adapter of a training; the rows of each step that is in the adapter."""
    rows = TokenRows(token_files.read_tokens(tokens / token_files.TRAIN))
    plan = make_step_plan(
        rows.lengths,
        planned.layout,
        7,
        steps=planned.steps,
        epochs=planned.epochs,
        sequences=planned.sequences,
        pack_length=planned.pack_length,
    )
    noted = StepLog(plan, rows, logging_steps=3, eval_steps=None, patience=planned.patience)
    for step in range(1, len(plan.steps) + 1):
        skipped = step in planned.skipped
        noted.eval_steps = step if step in planned.eval_losses else None
        norm = float("inf") if skipped else 1.0
        noted.end_step(step, {"loss": 1.0, "grad_norm": norm, "learning_rate": 0.1}, skipped=skipped)
        if step in planned.eval_losses:
            noted.note_heldout(planned.eval_losses[step])
        if noted.out_of_patience():
            break
    kept = noted.best_step if planned.keep_best else noted.step
    of_steps = noted.rows_of_steps(kept)
    ledger = make_ledger(rows.table, rows.labelled, of_steps)
    stood_in = dict(zip(rows.row_ids, ledger["steps"].to_pylist(), strict=True))
    labelled = dict(zip(rows.row_ids, rows.labelled, strict=True))
    write_training(folder, stood_in, labelled, kept=kept, log=noted.lines)
    return of_steps


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, str, str, list[list[int]]]]:
    """(folder with data/, page, model card, rows of each step) of a run of RUNS, each made once."""
    found: dict[str, tuple[Path, str, str, list[list[int]]]] = {}

    def make(name: str) -> tuple[Path, str, str, list[list[int]]]:
        if name not in found:
            root = tmp_path_factory.mktemp(name)
            of_steps: list[list[int]] = []

            def write_adapter(tokens: Path, folder: Path) -> None:
                of_steps.extend(train(tokens, folder, RUNS[name]))

            page, card = made(root, TALKS, 2, adapter=write_adapter)
            found[name] = (root, page, card, of_steps)
        return found[name]

    return make


def count_by_hand(of_steps: list[list[int]], labelled: list[int], taken: int) -> TrainingCounts:
    """The counts, row by row and step by step."""
    reached = {row for rows in of_steps for row in rows}
    return TrainingCounts(
        conversations=len(labelled),
        conversations_trained=len(reached),
        labelled_tokens=sum(labelled),
        labelled_tokens_reached=sum(labelled[row] for row in reached),
        labelled_tokens_trained=sum(labelled[row] for rows in of_steps for row in rows),
        steps=sum(bool(rows) for rows in of_steps),
        steps_skipped=sum(not rows for rows in of_steps),
        steps_dropped=taken - len(of_steps),
    )


def text_of(page: str) -> str:
    """A page without its tags."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


@pytest.mark.parametrize("name", RUNS)
def test_counts_of_a_run_are_the_same_to_the_digit_wherever_they_are_told(runs: Any, name: str) -> None:
    root, page, card, of_steps = runs(name)
    train_rows = token_files.read_tokens(root / "data/tokens" / token_files.TRAIN)
    ledger, log, training = read_trained(root / "adapter")
    labelled = [sum(label != -100 for label in labels) for labels in train_rows["labels"].to_pylist()]
    counts = count_by_hand(of_steps, labelled, log[-1]["step"])
    says = describe_trained(counts)
    assert count_trained(ledger, log, training["steps"]) == counts
    check = judge_ledger(ledger, log, training, train_rows)
    assert (check["passed"], check["says"]) == (True, says)
    assert f"{says}." in text_of(page)
    assert f": {says}. The loss is on" in card
    assert json.loads((root / "export.json").read_text())["training"] == counts
    assert log[-1]["tokens"] == counts["labelled_tokens_trained"] or counts["steps_dropped"]
    tiles = text_of(page.partition("</section>")[0])
    assert (
        f"{counts['conversations_trained']:,} conversations trained, of {counts['conversations']:,} training" in tiles
    )
    assert f"{counts['labelled_tokens_trained']:,} labelled tokens trained, with repetitions; " in tiles
    fates = text_of(page[page.index("Rows: none vanishes") :])
    assert f"training: trained {counts['conversations_trained']:,} " in fates
    assert f"reached by no step {counts['conversations'] - counts['conversations_trained']:,} " in fates


@pytest.mark.parametrize("name", RUNS)
def test_summary_in_the_terminal_counts_what_the_page_counts(runs: Any, name: str, monkeypatch: Any) -> None:
    root, page, _, _ = runs(name)
    monkeypatch.chdir(root)
    found = read_summary_of(root)
    assert found["training"]["counts"] == json.loads((root / "export.json").read_text())["training"]
    assert f"{dict(lines(found))['training']}." in text_of(page)


def read_summary_of(root: Path) -> dict[str, Any]:
    """`retune summary --json` of a run whose stages' files lie where the report's test puts them."""
    data = root / "data"
    rows = {"train": ROWS, "heldout": 1, "rejected": 0, "repeated": 0, "near_heldout": 0, "excluded": 0}
    (data / "messages/summary.json").write_text(json.dumps(facts()["data/messages/summary.json"] | rows))
    for name, place in (
        ("metrics.json", "evaluation/metrics.json"),
        ("ggufs.json", "gguf/checks.json"),
        ("adapter", "adapter"),
    ):
        (data / place).parent.mkdir(exist_ok=True)
        if not (data / place).exists():
            (data / place).symlink_to(root / name)
    (root / "params.yaml").write_text("train: {}\n")
    return read_summary(data)


def test_words_say_how_much_of_the_data_a_run_reached() -> None:
    counts = TrainingCounts(
        conversations=2832,
        conversations_trained=480,
        labelled_tokens=79289,
        labelled_tokens_reached=13356,
        labelled_tokens_trained=13356,
        steps=60,
        steps_skipped=0,
        steps_dropped=0,
    )
    assert describe_trained(counts) == (
        "480 of 2,832 training conversations were trained (16.9%) in 60 steps; 13,356 of 79,289 labelled tokens were reached (16.8%), "
        "with repetitions 13,356 were trained"
    )
    assert describe_trained(counts) in (ROOT / "README.md").read_text(), "the demo's own"
    more = counts | {"steps": 58, "steps_skipped": 2, "steps_dropped": 20}
    assert (
        "in 58 steps, 2 more were skipped (overflow in float16), 20 later ones are not in the adapter (train.keep: best);"
        in (
            describe_trained(more)  # type: ignore[arg-type]
        )
    )


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [
        (0, 9, "0.0%"),
        (9, 9, "100.0%"),
        (1, 9999, "under 0.1%"),
        (9998, 9999, "99.9%"),
        (480, 2832, "16.9%"),
        (0, 0, "0.0%"),
    ],
)
def test_share_is_all_only_where_nothing_is_missing(part: int, whole: int, said: str) -> None:
    assert format_share(part, whole) == said


def test_row_in_three_epochs_counts_three_times_and_once(tmp_path: Path) -> None:
    write_training(tmp_path, {"a": [1, 3, 4], "b": [2], "c": []}, {"a": 5, "b": 2, "c": 10})
    counts = count_trained(*read_trained(tmp_path)[:2], 4)
    assert (counts["labelled_tokens_trained"], counts["labelled_tokens_reached"], counts["labelled_tokens"]) == (
        17,
        7,
        17,
    )
    assert (counts["conversations_trained"], counts["conversations"]) == (2, 3)


SPOILT = {
    "cut_off": (contract.LEDGER, lambda content: content[:-9], "ledger.parquet is no whole Parquet file"),
    "no_text": (contract.STEPS, lambda content: b"\xff" + content, "steps.jsonl cannot be read as text"),
    "half_a_line": (contract.STEPS, lambda content: content[:-9], "steps.jsonl line 1 is no JSON"),
    "field_more": (
        contract.STEPS,
        lambda content: content.replace(b"{", b'{"newer": 1, '),
        "steps.jsonl line 1 has other fields than are known here",
    ),
    "tokens_as_text": (
        contract.STEPS,
        lambda content: content.replace(b'"tokens": 1', b'"tokens": "1"'),
        "steps.jsonl line 1 has a `tokens` of another kind",
    ),
    "list": (contract.TRAINING, lambda _: b"[]", "retune.json has other fields"),
    "steps_as_truth": (
        contract.TRAINING,
        lambda content: content.replace(b'"steps": 1', b'"steps": true'),
        "retune.json has a `steps` of another kind",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_files_of_a_training_that_cannot_be_read_are_named_with_the_reason(tmp_path: Path, name: str) -> None:
    file, spoil, said = SPOILT[name]
    write_training(tmp_path, {"a": [1]})
    (tmp_path / file).write_bytes(spoil((tmp_path / file).read_bytes()))
    with pytest.raises(ValueError, match=re.escape(said)):
        read_trained(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(ValueError, match=f"{file} is not there"):
        read_trained(tmp_path)
