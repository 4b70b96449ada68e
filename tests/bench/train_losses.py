"""What the losses of the training rows must show: that each row trains, and that rows with the recipe's mathematics train like it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

ENOUGH = 8
"""Steps after which the loss must have fallen."""
FALL = 1.0
"""By how much, at least: on the conversations of `train_data`, from ln(vocabulary) = 12 towards their entropy of 4.8. Random weights of
two of the 3B's layers fell by 2.3 in ten steps on a CPU; what is not trained stays within 0.1."""
NEAR = 0.02
"""Between two rows that do the same mathematics: rounding of 16-bit arithmetic, at the first step."""
APART = 0.08
"""And later, of the way that the loss has come down. Not less, since TRL rounds the adapter on a 4-bit base to bfloat16, which loses some
of every update (found: 3.4 % after ten steps of a small model; in float32 as ours, under 0.1 %)."""
LAG = 0.5
"""And of what the reference falls from the step before to the step behind: Adam's first steps follow the signs of the gradient, so that
rounding makes one start earlier than another. On an H100 ours and plain transformers were 0.10 and 0.05 ahead of the recipe at the third
step, and within 0.02 of it from the seventh on."""


def untrained(name: str, losses: Sequence[float]) -> str | None:
    """Why a row does not train, by its loss of each step; None if it does, or has too few steps to tell."""
    if not all(map(math.isfinite, losses)):
        return f"{name} has a loss that is no number"
    if len(losses) < ENOUGH or losses[0] - losses[-1] >= FALL:
        return None
    return f"{name} does not train: its loss went from {losses[0]:.3f} to {losses[-1]:.3f} in {len(losses)} steps; it must fall by {FALL}"


def furthest(losses: Sequence[float], reference: Sequence[float]) -> tuple[int, float]:
    """(step, difference) where one curve is furthest from another, in the steps that both have, by what is allowed there."""
    pairs = list(zip(losses, reference, strict=False))
    step = max(
        range(len(pairs)), key=lambda number: abs(pairs[number][0] - pairs[number][1]) / allowed(reference, number)
    )
    return step + 1, abs(pairs[step][0] - pairs[step][1])


def allowed(reference: Sequence[float], number: int) -> float:
    """How far from the reference a loss may be after a step (from 0)."""
    if not number:
        return NEAR
    around = reference[number - 1 : number + 2]
    return NEAR + APART * max(0.0, reference[0] - reference[number]) + LAG * (max(around) - min(around))


def unlike(name: str, losses: Sequence[float], other: str, reference: Sequence[float]) -> str | None:
    """Why a row that does the mathematics of the `other`, the reference, does not train like it; None if it does."""
    step, difference = furthest(losses, reference)
    if difference <= allowed(reference, step - 1):
        return None
    return (
        f"{name} does not train like {other}: at step {step} the losses are {losses[step - 1]:.3f} and {reference[step - 1]:.3f}, "
        f"and may be {allowed(reference, step - 1):.3f} apart"
    )


def judge(rows: Sequence[Mapping[str, Any]], alike: Sequence[str] = (), lost: Sequence[str] = ()) -> None:
    """Raise SystemExit with all that is wrong with the rows.

    Args:
        rows: with `row`, their name, and `losses` or `error`.
        alike: names of those that do the recipe's mathematics on the recipe's conversations, the reference first.
        lost: what is known to be wrong already.
    """
    failed = [f"{row['row']} failed: {row['error']}" for row in rows if "error" in row]
    curves = {row["row"]: row["losses"] for row in rows if "losses" in row}
    said = [untrained(name, losses) for name, losses in curves.items()]
    there = [name for name in alike if name in curves]
    said += [unlike(name, curves[name], there[0], curves[there[0]]) for name in there[1:]]
    wrong = [*lost, *failed, *filter(None, said)]
    if wrong:
        raise SystemExit("\n".join(wrong))
