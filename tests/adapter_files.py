"""What a training leaves in data/adapter beside its weights, in small: ledger, step log and retune.json that tell the same."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.arrow.tables import write_parquet
from stages.contracts import adapter as contract
from stages.contracts.tokens import TRAIN, read_tokens
from stages.core.files import write_json, write_text
from stages.reporting.ledger_checks import judge_ledger


def make_steps(rows: Mapping[str, Sequence[int]], labelled: Mapping[str, int], last: int) -> list[contract.Step]:
    """A step log with a line for each step up to `last`. A step without rows was skipped, and epochs count the rows of the ledger."""
    lines, tokens, taken = [], 0, 0
    for step in range(1, last + 1):
        of_step = [name for name, steps in rows.items() if step in steps]
        tokens, taken = tokens + sum(labelled[name] for name in of_step), taken + len(of_step)
        lines.append(
            contract.Step(
                step=step,
                epoch=round(taken / max(len(rows), 1), 6),
                loss=2.0 / step,
                grad_norm=1.0 if of_step else None,
                learning_rate=0.1,
                tokens=tokens,
                eval_loss=None,
            )
        )
    return lines


def write_training(
    folder: Path,
    rows: Mapping[str, Sequence[int]],
    labelled: Mapping[str, int] | None = None,
    *,
    kept: int | None = None,
    log: Sequence[contract.Step] | None = None,
) -> None:
    """Write what `train` would for rows and the steps that they stood in.

    Args:
        folder: data/adapter.
        rows: {row id: steps}.
        labelled: {row id: its labelled tokens}; one each where it is not said.
        kept: the step whose adapter it is; None: the last that a row has.
        log: the step log; None: one line a step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    counts = labelled or dict.fromkeys(rows, 1)
    last = kept or max((step for steps in rows.values() for step in steps), default=1)
    columns = {"row_id": list(rows), "labelled_tokens": [counts[name] for name in rows], "steps": list(rows.values())}
    write_parquet(folder / contract.LEDGER, pa.Table.from_pydict(columns, schema=contract.LEDGER_SCHEMA))
    lines = make_steps(rows, counts, last) if log is None else log
    write_text(folder / contract.STEPS, "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))
    told = contract.Training(
        base={"config.json": "0" * 64},
        load_in_4bit=True,
        dtype="bfloat16",
        embedding_rows=8,
        trained_rows=[],
        steps=last,
    )
    write_json(folder / contract.TRAINING, told)


def judge_adapter(folder: Path, tokens: Path) -> dict[str, Any]:
    """The audit's check `ledger` of an adapter that was trained on `tokens`."""
    return judge_ledger(*contract.read_trained(folder), read_tokens(tokens / TRAIN))
