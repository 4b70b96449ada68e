"""The plan of a training: which rows each optimizer step is made of, and how a step is cut into micro-batches. Pure, without torch.

A step is a list of sequences, a sequence a list of row numbers. `padded` and `flattened` have one row in each sequence; in `packed`
a sequence is whole conversations that fill `pack_length` tokens together. The plan is made of the rows' lengths and the params
alone: neither the micro-batch nor the number of processes changes a step, only how it is cut.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Literal

Layout = Literal["padded", "flattened", "packed"]

WINDOW = 4096
"""Conversations that are packed together, in the epoch's random order. Measured on lengths like FineTome's at 2,048 tokens: see
tests/stages/training/test_step_plan.py; a smaller window fills less, a larger one mixes less."""

SequenceRows = list[int]
StepRows = list[SequenceRows]


@dataclass(frozen=True)
class StepPlan:
    """All optimizer steps of a training."""

    steps: list[StepRows]
    """What each optimizer step is trained on."""
    rows: int
    """Training rows there are."""

    @cached_property
    def ends(self) -> list[int]:
        """Rows of all steps up to each one."""
        return list(accumulate(sum(map(len, step)) for step in self.steps))

    def epoch(self, step: int) -> float:
        """Passes over the training rows when `step` steps (from 1) are done."""
        return self.ends[step - 1] / self.rows

    def tokens(self, lengths: Sequence[int]) -> int:
        """Tokens of all steps, without filling; `lengths` are those of the rows."""
        return sum(lengths[row] for step in self.steps for sequence in step for row in sequence)


def make_step_plan(
    lengths: Sequence[int],
    layout: Layout,
    seed: int,
    *,
    steps: int | None,
    epochs: float | None,
    sequences: int,
    pack_length: int | None,
) -> StepPlan:
    """Every conversation once an epoch, in an order that `seed` and the epoch give; the last step of an epoch has what remains.

    Args:
        lengths: tokens of each row.
        layout: as `train.layout`.
        seed: as `train.seed`.
        steps: optimizer steps to plan; None where `epochs` says how many.
        epochs: passes over the rows; a part of one is that part of its steps, rounded up.
        sequences: sequences in a step: conversations (padded, flattened) or packs.
        pack_length: tokens of a pack; None unless packed.

    Raises:
        ValueError: there are no rows, or one is longer than a pack.
    """
    if not lengths:
        raise ValueError("no rows to plan")
    planned: list[StepRows] = []
    whole = 0
    while len(planned) < steps if steps is not None else whole < (epochs or 0):
        order = draw_order(len(lengths), f"{seed}/{whole}")
        units = [[row] for row in order]
        if layout == "packed":
            units = pack_epoch(order, lengths, pack_length or 0, f"{seed}/{whole}/packs")
        of_epoch = [units[start : start + sequences] for start in range(0, len(units), sequences)]
        if epochs is not None and epochs - whole < 1:
            of_epoch = of_epoch[: -int(-(epochs - whole) * len(of_epoch) // 1)]
        planned += of_epoch
        whole += 1
    return StepPlan(planned if steps is None else planned[:steps], len(lengths))


def draw_order(count: int, seed: str) -> list[int]:
    """0 to count - 1 in a random order that is the same for a seed on every Python: drawn keys are sorted, nothing is swapped."""
    draw = random.Random(seed)  # noqa: S311 - an order, no secret
    keys = [draw.random() for _ in range(count)]
    return sorted(range(count), key=keys.__getitem__)


def pack_epoch(order: Sequence[int], lengths: Sequence[int], pack_length: int, seed: str) -> list[SequenceRows]:
    """The rows of an epoch as packs, whole conversations each, in random order.

    Raises ValueError if a row is longer than a pack.
    """
    packs: list[SequenceRows] = []
    for start in range(0, len(order), WINDOW):
        packs += best_fit(order[start : start + WINDOW], lengths, pack_length)
    return [packs[number] for number in draw_order(len(packs), seed)]


def best_fit(rows: Sequence[int], lengths: Sequence[int], pack_length: int) -> list[SequenceRows]:
    """Best fit decreasing: the longest row first, each into the pack that it leaves the least room in.

    Raises ValueError if a row is longer than a pack.
    """
    packs: list[SequenceRows] = []
    with_room: dict[int, list[int]] = {}
    """{free tokens: packs that have them}"""
    rooms = 0
    """Bit n is set where some pack has n tokens free, so that the best fit is the lowest bit from a length on."""
    for row in sorted(rows, key=lambda row: (-lengths[row], row)):
        length = lengths[row]
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            pack = with_room[room].pop()
            if not with_room[room]:
                rooms &= ~(1 << room)
        else:
            room, pack = pack_length, len(packs)
            packs.append([])
        if length > room:
            msg = f"row {row} has {length} tokens, more than a pack of {pack_length}"
            raise ValueError(msg)
        packs[pack].append(row)
        with_room.setdefault(room - length, []).append(pack)
        rooms |= 1 << (room - length)
    return packs


def micro_batches(
    step: StepRows, lengths: Sequence[int], size: int, *, rank: int = 0, ranks: int = 1
) -> Iterator[list[SequenceRows]]:
    """A step cut for one of `ranks` processes into micro-batches of up to `size` sequences, all about as large.

    Longest first, dealt out in turn: so the processes get about the same work, rows of about the same length are padded together,
    and memory fails in the first micro-batch if it fails. The mathematics of the step does not depend on it.
    """
    tokens = [sum(lengths[row] for row in sequence) for sequence in step]
    mine = sorted(range(len(step)), key=lambda number: (-tokens[number], number))[rank::ranks]
    if not mine:
        return
    count = -(-len(mine) // size)
    for part in range(count):
        start, end = len(mine) * part // count, len(mine) * (part + 1) // count
        yield [step[number] for number in mine[start:end]]
