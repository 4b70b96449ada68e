"""data/adapter: what was trained, as a PEFT folder, and how. Written by `train`, read by `evaluate`, `merge`, `gguf`, `audit` and `report`."""

from typing import TypedDict

import pyarrow as pa

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

TRAINING = "retune.json"
"""What must be known to load the adapter as it was trained: a `Training`."""

STEPS = "steps.jsonl"
"""One `Step` a line, for every `train.logging_steps` optimizer steps, for the last one, and where the held-out loss was measured."""

LEDGER = "ledger.parquet"
"""One row for each row of train.arrow, in its order: what it gave to the training."""

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
