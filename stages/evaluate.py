r"""Measure base against tuned on held-out rows: loss, perplexity, token accuracy, and greedy answers side by side.

Reads  data/base, data/adapter (and how its base was loaded: NF4 or not, which dtype), data/tokens (heldout.arrow, the tokenizer).
Writes data/evaluation/metrics.json, data/evaluation/answers.parquet.

    python -m stages.evaluate --base data/base --adapter data/adapter --tokens data/tokens \
        --metrics data/evaluation/metrics.json --answers data/evaluation/answers.parquet

An answer is what the model says greedily after the dialogue so far, with the reference answers of earlier turns. It costs one
forward pass of the whole dialogue: as long as the model's first choices are the reference's tokens, that pass has said them
already. Generation goes on from the first token that differs, on the keys and values of that pass.
"""

import logging
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
from pydantic import Field

from stages.arrow.tables import write_parquet
from stages.contracts import adapter as adapter_files
from stages.contracts import evaluation as contract
from stages.contracts import tokens as token_files
from stages.core.errors import StageError
from stages.core.files import read_json, sha256_file, write_json
from stages.core.params import Params, Runtime
from stages.core.runner import Input, Output, run
from stages.evaluation.answer_text import read_answer
from stages.evaluation.greedy import StopRule, check_head
from stages.evaluation.measures import ModelMeasures, measure
from stages.evaluation.observed_measures import note_evaluation
from stages.models.base_model import base_digests, check_not_merged, device, load_base, prepare_process

if TYPE_CHECKING:
    from peft import PeftModel

log = logging.getLogger("retune")


class EvaluateParams(Params):
    """What is measured on the held-out rows."""

    rows: Annotated[int, Field(ge=1)] | None
    """Held-out rows measured, the first of them; null: all."""
    answer_rows: Annotated[int, Field(ge=0)]
    """Of these, the first so many are answered, too, by base and by tuned. Each assistant's turn. Effect: time; examples in the report."""
    max_new_tokens: Annotated[int, Field(ge=1)]
    """Tokens of an answer, at most. A longer reference cannot be matched."""
    exact_match: bool
    """Whether an answer is right when it equals the reference. As with tasks that have one answer; thoughts before it are not compared.
    false: exact_match is null."""


def evaluate(
    base: Input,
    adapter: Input,
    tokens: Input,
    metrics: Output,
    answers: Output,
    params: EvaluateParams,
    runtime: Runtime,
) -> None:
    """Measure both models on one load of the base, the adapter switched off for the base's turn.

    Without a held-out row there is nothing to measure: all numbers are null, and the audit judges that.

    Raises:
        StageError: an adapter that was trained on another base, or that is merged into this one already.
    """
    training: adapter_files.Training = read_json(adapter / adapter_files.TRAINING)
    check_not_merged(base, sha256_file(adapter / adapter_files.WEIGHTS))
    if training["base"] != base_digests(base):
        raise StageError(
            f"{adapter} was trained on another base than {base}: run `dvc repro train`, or fetch that base"
        )
    rows = token_files.read_tokens(tokens / token_files.HELDOUT).slice(0, params.rows)
    if rows.num_rows == 0:
        log.warning("no row is held out, so nothing can be measured (standardize.heldout_fraction)")
        write_results(rows, [], ModelMeasures([], []), ModelMeasures([], []), tokens, metrics, answers, params)
        return
    prepare_process(base, runtime)
    place = device(runtime)
    model = load_tuned(base, adapter, training, place)
    spans = [
        token_files.answers(row["input_ids"], row["labels"]) for row in rows.select(["input_ids", "labels"]).to_pylist()
    ]
    stop = read_stop_rule(tokens, base, params)
    measured = {
        name: measure(
            model, rows, spans, params.answer_rows, stop, place, runtime.evaluation_batch, adapter_on=name == "tuned"
        )
        for name in ("base", "tuned")
    }
    found = write_results(rows, spans, measured["base"], measured["tuned"], tokens, metrics, answers, params)
    note_evaluation(model, measured["tuned"], found["tuned"]["exact_match"], params.max_new_tokens)


def load_tuned(base: Path, adapter: Path, training: adapter_files.Training, place: str) -> "PeftModel":
    """The base as it was loaded for training, with the adapter on it."""
    from peft import PeftModel

    plain = load_base(
        base,
        load_in_4bit=training["load_in_4bit"],
        dtype=training["dtype"],
        place=place,
        rows=training["embedding_rows"],
    )
    tuned = PeftModel.from_pretrained(plain, adapter)
    tuned.eval()
    check_head(tuned, place)
    return tuned


def open_tokenizer(tokens: Path) -> Any:  # noqa: ANN401 - tokenizers ships no types that mypy reads
    """The tokenizer of data/tokens."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(tokens / token_files.TOKENIZER / "tokenizer.json"))


def read_stop_rule(tokens: Path, base: Path, params: EvaluateParams) -> StopRule:
    """Answers end at the tokenizer's end of turn, at any end that the base's generation settings name, or at max_new_tokens."""
    end: list[int] = read_json(tokens / token_files.SUMMARY)["end_of_turn"]["ids"]
    ids = {end[0]} if len(end) == 1 else set()
    for name in ("generation_config.json", "config.json"):
        found = read_json(base / name).get("eos_token_id") if (base / name).exists() else None
        ids |= set(found if isinstance(found, list) else [found]) - {None}
    return StopRule(ids=frozenset(ids), sequence=end, longest=params.max_new_tokens)


def write_results(
    rows: pa.Table,
    spans: Sequence[Sequence[tuple[int, int]]],
    base: ModelMeasures,
    tuned: ModelMeasures,
    tokens: Path,
    metrics: Path,
    answers: Path,
    params: EvaluateParams,
) -> contract.Metrics:
    """metrics.json, which comes back, and answers.parquet, in the order of the rows."""
    table = answer_table(rows, spans, base, tuned, tokens, exact_match=params.exact_match)
    count = sum(end - max(start, 1) for row in spans for start, end in row)
    found = contract.Metrics(
        base=scores(base, count, table["base_match"]),
        tuned=scores(tuned, count, table["tuned_match"]),
        rows=rows.num_rows,
        tokens=count,
        answers=table.num_rows,
    )
    write_json(metrics, found)
    write_parquet(answers, table)
    for name, one in (("base", found["base"]), ("tuned", found["tuned"])):
        log.info(
            "%s: %s", name, "  ".join(f"{key} {value:.4f}" for key, value in one.items() if isinstance(value, float))
        )
    return found


def scores(measured: ModelMeasures, count: int, matches: pa.ChunkedArray) -> contract.Scores:
    """One model's numbers from its sums; null where nothing was counted."""
    checked = [match for match in matches.to_pylist() if match is not None]
    loss = math.fsum(measured.loss) / count if count else None
    return contract.Scores(
        loss=loss,
        perplexity=None if loss is None else math.exp(min(loss, 700.0)),
        token_accuracy=sum(measured.correct) / count if count else None,
        exact_match=sum(checked) / len(checked) if checked else None,
    )


def answer_table(
    rows: pa.Table,
    spans: Sequence[Sequence[tuple[int, int]]],
    base: ModelMeasures,
    tuned: ModelMeasures,
    tokens: Path,
    *,
    exact_match: bool,
) -> pa.Table:
    """ANSWERS_SCHEMA: each answered turn with its reference, as people read it."""
    summary = read_json(tokens / token_files.SUMMARY)
    read = partial(read_answer, open_tokenizer(tokens), end=summary["end_of_turn"]["ids"], form=summary["answer"])
    found: list[dict[str, object]] = []
    for row, turn in sorted(tuned.answers):
        ids = rows["input_ids"][row].as_py()
        start, stop = spans[row][turn]
        reference, one, other = map(read, (ids[start:stop], base.answers[row, turn], tuned.answers[row, turn]))
        found.append(
            {
                "row_id": rows["row_id"][row].as_py(),
                "turn": turn,
                "prompt_tokens": start,
                "reference": reference.text,
                "base_answer": one.text,
                "tuned_answer": other.text,
                "reference_thoughts": reference.thoughts,
                "base_thoughts": one.thoughts,
                "tuned_thoughts": other.thoughts,
                "base_match": one.text == reference.text if exact_match else None,
                "tuned_match": other.text == reference.text if exact_match else None,
            }
        )
    return pa.Table.from_pylist(found, schema=contract.ANSWERS_SCHEMA)


if __name__ == "__main__":
    run(evaluate, runtime_keys=("device", "evaluation_batch"))
