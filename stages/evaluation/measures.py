"""One model's measures on held-out rows: the loss and first choice of each labelled token, and its greedy answers."""

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from stages.evaluation.greedy import OpenAnswer, StopRule, compute_logits, cut_at_difference, forward, generate
from stages.models.base_model import batches

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

HEAD_POSITIONS = 512
"""Positions whose logits are in memory at once."""


@dataclass
class ModelMeasures:
    """One model's measures, by row."""

    loss: list[float]
    """Sum of the negative log-likelihoods of the row's labelled tokens, nats."""
    correct: list[int]
    """Labelled tokens that are the first choice."""
    answers: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    """{(row, turn): ids of the answer, with its end of turn}"""
    largest_batch: int = 0
    """Rows in a forward pass, at most."""


def measure(
    model: "PeftModel",
    rows: pa.Table,
    spans: Sequence[Sequence[tuple[int, int]]],
    answer_rows: int,
    stop: StopRule,
    place: str,
    batch_rows: int,
    *,
    adapter_on: bool,
) -> ModelMeasures:
    """One model's measures of all rows, and its answers for the first `answer_rows`, whatever the batch size (rounding aside)."""
    import torch

    lengths = [len(ids) for ids in rows["input_ids"].to_pylist()]
    found = ModelMeasures(loss=[0.0] * rows.num_rows, correct=[0] * rows.num_rows)
    with torch.inference_mode(), nullcontext() if adapter_on else model.disable_adapter():
        for numbers in batches(lengths, batch_rows):
            found.largest_batch = max(found.largest_batch, len(numbers))
            ids = [rows["input_ids"][number].as_py() for number in numbers]
            hidden, cache = forward(model, ids, place, keep=any(number < answer_rows for number in numbers))
            open_answers: list[OpenAnswer] = []
            for at, number in enumerate(numbers):
                choices = score_row(model, hidden[at], ids[at], spans[number], found, number)
                if number < answer_rows:
                    open_answers += split_answers(number, at, ids[at], spans[number], choices, stop, found)
            open_answers.sort(key=lambda answer: (answer.prompt + len(answer.said), answer.row, answer.turn))
            for start in range(0, len(open_answers), batch_rows):
                for answer, said in generate(model, cache, open_answers[start : start + batch_rows], stop, place):
                    found.answers[answer.row, answer.turn] = said
    return found


def score_row(
    model: "PeftModel",
    hidden: "torch.Tensor",
    ids: Sequence[int],
    spans: Sequence[tuple[int, int]],
    found: ModelMeasures,
    number: int,
) -> list[int]:
    """Add one row's loss and first choices to `found`; the first choices themselves, for each labelled token in order.

    A token at position 0 has nothing before it that predicts it: it is not counted, and its choice is -1.
    """
    import torch

    places = [position for start, stop in spans for position in range(start, stop)]
    counted = [position for position in places if position > 0]
    choices: list[int] = [-1] * (len(places) - len(counted))
    losses: list[float] = []
    for start in range(0, len(counted), HEAD_POSITIONS):
        chunk = torch.tensor(counted[start : start + HEAD_POSITIONS], device=hidden.device)
        wanted = torch.tensor(
            [ids[position] for position in counted[start : start + HEAD_POSITIONS]], device=hidden.device
        )
        logits = compute_logits(model, hidden[chunk - 1])
        losses.append(float(torch.nn.functional.cross_entropy(logits, wanted, reduction="none").double().sum()))
        first = logits.argmax(-1)
        found.correct[number] += int((first == wanted).sum())
        choices += first.tolist()
    found.loss[number] = math.fsum(losses)
    return choices


def split_answers(
    row: int,
    place: int,
    ids: Sequence[int],
    spans: Sequence[tuple[int, int]],
    choices: Sequence[int],
    stop: StopRule,
    found: ModelMeasures,
) -> Iterator[OpenAnswer]:
    """The turns whose answer must be generated; the others' answers, said by the forward pass already, go into `found`."""
    first = 0
    for turn, (start, end) in enumerate(spans):
        reference, chosen = list(ids[start:end]), list(choices[first : first + end - start])
        first += end - start
        said = cut_at_difference(reference, chosen)
        ended = next((count for count in range(1, len(said) + 1) if stop.after(said[:count])), None)
        if ended is not None:
            found.answers[row, turn] = said[:ended]
        else:
            yield OpenAnswer(row=row, turn=turn, place=place, prompt=start, said=said)
