"""What is to be trained, and from what: read and checked before anything is loaded, without torch."""

from dataclasses import dataclass
from pathlib import Path

from stages.contracts import tokens as token_files
from stages.models.base_model import base_digests, embedding_plan, read_config
from stages.training.initial_adapter import check_first
from stages.training.params import TrainParams
from stages.training.step_plan import StepPlan, make_step_plan
from stages.training.token_rows import TokenRows, check_rows


@dataclass(frozen=True)
class Task:
    """What is to be trained, and from what."""

    base: Path
    tokens: Path
    custom_adapter: Path
    params: TrainParams
    rows: TokenRows
    plan: StepPlan
    embedding_rows: int
    trained_rows: list[int]


def read_task(base: Path, tokens: Path, custom_adapter: Path, params: TrainParams) -> Task:
    """What is to be trained, checked. Raises StageError if it cannot be."""
    table = token_files.read_tokens(tokens / token_files.TRAIN)
    embedding_rows, trained_rows = embedding_plan(base, tokens)
    check_rows(table, read_config(base), embedding_rows, params.pack_length)
    if params.init_adapter == "custom":
        check_first(custom_adapter, params.lora.model_dump(), base_digests(base))
    rows = TokenRows(table)
    return Task(base, tokens, custom_adapter, params, rows, plan_steps(rows, params), embedding_rows, trained_rows)


def plan_steps(rows: TokenRows, params: TrainParams) -> StepPlan:
    """The steps that the params make of the rows."""
    if params.layout == "packed":
        sequences = (params.tokens_per_step or 0) // (params.pack_length or 1)
    else:
        sequences = params.conversations_per_step or 0
    return make_step_plan(
        rows.lengths,
        params.layout,
        params.seed,
        steps=params.steps,
        epochs=params.epochs,
        sequences=sequences,
        pack_length=params.pack_length,
    )
