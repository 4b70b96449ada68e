"""What the audit says of tokens and training: which rows became tokens, which were trained, and whether ledger, step log and labels tell the
same. Pure functions of tables.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.contracts.adapter import Step, Training
from stages.contracts.audit import make_check
from stages.contracts.tokens import count_labelled
from stages.reporting.training_counts import count_trained, describe_trained

NAMED_ROWS = 3
"""Row ids that a sentence names, at most."""
EPOCH_DIGITS = 6
"""That the step log rounds `epoch` to."""


def judge_tokens(
    rows: pa.Table, train: pa.Table, heldout: pa.Table, rejected: pa.Table, ledger: pa.Table
) -> Iterator[dict[str, Any]]:
    """The tokens are those rows and no others; nothing held out was trained.

    Args:
        rows: row_id and split of data/messages.
        train: train.arrow; only the row ids are looked at.
        heldout: heldout.arrow, as `train`.
        rejected: what the template rejects, as `train`.
        ledger: of the training.
    """
    split = dict(zip(rows["row_id"].to_pylist(), rows["split"].to_pylist(), strict=True))
    trains, held, refused = (set(table["row_id"].to_pylist()) for table in (train, heldout, rejected))
    lost = split.keys() - trains - held - refused
    extra = (trains | held | refused) - split.keys()
    says = f"{len(split)} conversations = {len(trains)} train + {len(held)} held out + {len(refused)} that the template rejects"
    if lost or extra:
        says += f"; {len(lost)} are lost and {len(extra)} come from nowhere"
    yield make_check("tokens_accounted", len(lost) + len(extra), 0, passed=not lost and not extra, says=says)
    leaked = (set(ledger["row_id"].to_pylist()) & held) | (trains & held)
    leaked |= {row for row in trains if split.get(row) != "train"}
    says = f"{len(leaked)} held-out conversations stand among the training conversations"
    yield make_check("no_leak", len(leaked), 0, passed=not leaked, says=says)


def judge_ledger(ledger: pa.Table, log: Sequence[Step], training: Training, train: pa.Table) -> dict[str, Any]:
    """Something was trained, and ledger, step log, retune.json and the labels of train.arrow tell the same.

    Args:
        ledger: ledger.parquet.
        log: the lines of steps.jsonl.
        training: retune.json.
        train: train.arrow.
    """
    wrong = [*compare_rows(ledger, train), *compare_steps(ledger, log, training["steps"])]
    trained = count_trained(ledger, log, training["steps"])
    if not trained["conversations_trained"]:
        wrong.append("no conversation was trained: no row of the ledger has a step")
    return make_check("ledger", len(wrong), 0, passed=not wrong, says="; ".join(wrong) or describe_trained(trained))


def compare_rows(ledger: pa.Table, train: pa.Table) -> Iterator[str]:
    """Where the ledger's rows are not those of train.arrow with their labels; in words."""
    named, there = ledger["row_id"].to_pylist(), train["row_id"].to_pylist()
    if named != there:
        foreign, missing = set(named) - set(there), set(there) - set(named)
        yield (
            f"the ledger's rows are not those of train.arrow ({len(foreign)} of {len(named)} are none of its {len(there)}, "
            f"{len(missing)} are missing{'' if foreign or missing else ': another order, or rows twice'})"
        )
        return
    differ = np.flatnonzero(ledger["labelled_tokens"].to_numpy() != count_labelled(train).to_numpy())
    if differ.size:
        yield f"the ledger has another number of labelled tokens than train.arrow has labels for {name_rows(named, differ)}"


def compare_steps(ledger: pa.Table, log: Sequence[Step], kept: int) -> Iterator[str]:
    """Where the ledger's steps are not those of the step log; in words. `kept`: the step whose adapter it is."""
    times = pc.list_value_length(ledger["steps"]).to_numpy()
    steps = pc.list_flatten(ledger["steps"]).to_numpy()
    rows = np.repeat(np.arange(ledger.num_rows), times)
    beyond = (steps < 1) | (steps > kept)
    if beyond.any():
        yield f"the ledger has steps that are none of the adapter's {kept}, for {name_rows(ledger['row_id'].to_pylist(), rows[beyond])}"
        return
    falling = (np.diff(steps) <= 0) & (np.diff(rows) == 0)
    if falling.any():
        yield f"the ledger has a step twice, or out of order, for {name_rows(ledger['row_id'].to_pylist(), rows[1:][falling])}"
    yield from compare_log(log, kept)
    tokens, sizes = np.zeros(kept + 1, np.int64), np.zeros(kept + 1, np.int64)
    np.add.at(tokens, steps, ledger["labelled_tokens"].to_numpy()[rows])
    np.add.at(sizes, steps, 1)
    tokens_so_far, rows_so_far = tokens.cumsum(), sizes.cumsum()
    whole = sizes[1:].all()
    for line in log:
        step = line["step"]
        if step > kept:
            break
        if line["tokens"] != tokens_so_far[step]:
            yield f"up to step {step} the step log counts {line['tokens']:,} labelled tokens, the ledger {tokens_so_far[step]:,}"
            break
        if (line["grad_norm"] is None) != (sizes[step] == 0):
            yield f"step {step} has {sizes[step]} {'row' if sizes[step] == 1 else 'rows'} in the ledger, and in the step log it {'was skipped' if sizes[step] else 'was taken'}"
            break
        # a step that was skipped has rows in the plan and none in the ledger
        epoch = round(int(rows_so_far[step]) / max(ledger.num_rows, 1), EPOCH_DIGITS)
        if whole and line["epoch"] != epoch:
            yield f"up to step {step} the step log has {line['epoch']} epochs, the ledger {epoch}"
            break


def compare_log(log: Sequence[Step], kept: int) -> Iterator[str]:
    """Where the step log is none of an adapter of step `kept`; in words."""
    steps, tokens = [line["step"] for line in log], [line["tokens"] for line in log]
    if not log:
        yield "the step log is empty"
    elif steps != sorted(set(steps)) or tokens != sorted(tokens):
        yield "the step log's steps and tokens do not rise from line to line"
    elif kept not in steps:
        yield f"the adapter is that of step {kept}, of which the step log has no line (its last is of step {steps[-1]})"
    elif kept != steps[-1] and kept != find_best(log):
        yield f"the adapter is that of step {kept}, neither the last ({steps[-1]}) nor that of the lowest held-out loss ({find_best(log)})"


def find_best(log: Sequence[Mapping[str, Any]]) -> int | None:
    """The first step with the lowest held-out loss; None where none was measured."""
    measured = [(line["eval_loss"], line["step"]) for line in log if line["eval_loss"] is not None]
    return min(measured)[1] if measured else None


def name_rows(row_ids: Sequence[str], places: "np.ndarray[Any, Any]") -> str:
    """How many rows, and the first ones by id."""
    found = sorted(set(places.tolist()))
    more = ", ..." if len(found) > NAMED_ROWS else ""
    return f"{len(found)} {'row' if len(found) == 1 else 'rows'} ({', '.join(row_ids[place] for place in found[:NAMED_ROWS])}{more})"
