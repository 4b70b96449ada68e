"""data/adapter: what was trained, as a PEFT folder, and how. Written by `train`, read by `evaluate`, `merge`, `gguf`, `audit` and `report`."""

import json
from pathlib import Path
from typing import Any, TypedDict, cast

import pyarrow as pa

from stages.arrow.tables import read_parquet

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

TRAINING = "retune.json"
"""What must be known to load the adapter as it was trained: a `Training`."""

STEPS = "steps.jsonl"
"""One `Step` a line, for every `train.logging_steps` optimizer steps, for the last one, and where the held-out loss was measured."""

LEDGER = "ledger.parquet"
"""One row for each row of train.arrow, in its order: what it gave to the adapter. All counts of what was trained are made of it
(`stages.reporting.training_counts`)."""

LEDGER_SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        # tokens of the row that carry a label
        pa.field("labelled_tokens", pa.int64(), nullable=False),
        # optimizer steps (from 1) of this adapter that the row was part of; empty when it was never reached
        pa.field("steps", pa.list_(pa.field("element", pa.int32(), nullable=False)), nullable=False),
    ]
)


class Training(TypedDict):
    """How the adapter's base was loaded, and which base it was."""

    base: dict[str, str]
    """{file name: sha256} of the base's config and weights."""
    load_in_4bit: bool
    dtype: str
    """What `auto` came to: bfloat16, float16 or float32."""
    embedding_rows: int
    """Rows of the embedding while training; more than the base's where tokens were added."""
    trained_rows: list[int]
    """Rows of the embedding that were trained (added tokens), sorted."""
    steps: int
    """Optimizer steps that the adapter is made of; with `train.keep: best` fewer than were taken."""


class Step(TypedDict):
    """One line of the step log. Losses are means over labelled tokens, in nats."""

    step: int
    """Optimizer steps so far, from 1."""
    epoch: float
    """Passes over the training rows so far."""
    loss: float
    """Mean of the steps' losses since the line before."""
    grad_norm: float | None
    """Of this step, before clipping. null where it overflowed in float16, so that the step was not taken."""
    learning_rate: float
    """Of this step."""
    tokens: int
    """Labelled tokens trained on since the start."""
    eval_loss: float | None
    """Over the first `train.eval_rows` held-out rows, where it was measured."""


class TrainingCounts(TypedDict):
    """What an adapter was trained on, as the ledger counts it: the steps that the adapter is made of, and no step that was planned."""

    conversations: int
    """Training conversations: rows of train.arrow."""
    conversations_trained: int
    """Those of them that stood in a step."""
    labelled_tokens: int
    """Of all training conversations."""
    labelled_tokens_reached: int
    """Of the conversations that were trained, each token once."""
    labelled_tokens_trained: int
    """The same, each token as often as a step trained it: over three epochs three times."""
    steps: int
    """Optimizer steps that trained: those of the adapter that have rows."""
    steps_skipped: int
    """Steps of the adapter without rows: their gradient overflowed in float16, so they trained nothing."""
    steps_dropped: int
    """Steps that were taken after that of the adapter (`train.keep: best`) and are not in it."""


STEP_KINDS: dict[str, tuple[type, ...]] = {
    "step": (int,),
    "epoch": (float, int),
    "loss": (float, int),
    "grad_norm": (float, int, type(None)),
    "learning_rate": (float, int),
    "tokens": (int,),
    "eval_loss": (float, int, type(None)),
}
TRAINING_KINDS: dict[str, tuple[type, ...]] = {
    "base": (dict,),
    "load_in_4bit": (bool,),
    "dtype": (str,),
    "embedding_rows": (int,),
    "trained_rows": (list,),
    "steps": (int,),
}


def read_trained(folder: Path) -> tuple[pa.Table, list[Step], Training]:
    """Ledger, step log and retune.json of data/adapter. Raises ValueError that names the file and says what is wrong with it."""
    path = folder / LEDGER
    try:
        ledger = read_ledger(path)
        path = folder / STEPS
        log = read_steps(path)
        path = folder / TRAINING
        return ledger, log, read_training(path)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error


def read_ledger(path: Path) -> pa.Table:
    """ledger.parquet. Raises ValueError, in words to be said behind its name, if it cannot be read or has other columns."""
    try:
        table = read_parquet(path)
    except FileNotFoundError:
        raise ValueError("is not there") from None
    except (pa.ArrowException, OSError) as error:
        raise ValueError("is no whole Parquet file") from error
    if not table.schema.equals(LEDGER_SCHEMA):
        raise ValueError("has other columns than a ledger: another version of Retune wrote it, or it was edited")
    return table


def read_steps(path: Path) -> list[Step]:
    """steps.jsonl. Raises ValueError, in words to be said behind its name, for a line that is no `Step`."""
    lines = read_words(path).splitlines()
    return [
        cast("Step", read_object(line, STEP_KINDS, f"line {number} ")) for number, line in enumerate(lines, start=1)
    ]


def read_training(path: Path) -> Training:
    """retune.json. Raises ValueError, in words to be said behind its name, if it is no `Training`."""
    return cast("Training", read_object(read_words(path), TRAINING_KINDS, ""))


def read_words(path: Path) -> str:
    """The text of a file. Raises ValueError, in words to be said behind its name."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError("is not there") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError("cannot be read as text") from error


def read_object(text: str, kinds: dict[str, tuple[type, ...]], where: str) -> dict[str, Any]:
    """The JSON object in a text, with these keys and no others. Raises ValueError that begins with `where`."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where}is no JSON: cut off, or edited") from error
    if not isinstance(found, dict) or found.keys() != kinds.keys():
        raise ValueError(
            f"{where}has other fields than are known here: another version of Retune wrote it, or it was edited"
        )
    wrong = [name for name, kind in kinds.items() if type(found[name]) not in kind]
    if wrong:
        raise ValueError(f"{where}has a `{wrong[0]}` of another kind than is known here")
    return found
