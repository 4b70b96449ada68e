import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.training.step_plan import (
    WINDOW,
    Layout,
    StepPlan,
    best_fit,
    draw_order,
    make_step_plan,
    micro_batches,
    pack_epoch,
)

LENGTHS = st.lists(st.integers(1, 64), min_size=1, max_size=60)
LAYOUTS: list[Layout] = ["padded", "flattened", "packed"]


def plan(lengths: Sequence[int], layout: Layout, **changed: object) -> StepPlan:
    settings = {"steps": None, "epochs": 1.0, "sequences": 4, "pack_length": 64, "seed": 3, **changed}
    return make_step_plan(lengths, layout, settings.pop("seed"), **settings)


def rows_of(steps: Sequence[Sequence[Sequence[int]]]) -> list[int]:
    return [row for step in steps for sequence in step for row in sequence]


@given(lengths=LENGTHS, layout=st.sampled_from(LAYOUTS), epochs=st.integers(1, 3), sequences=st.integers(1, 9))
def test_each_conversation_is_planned_exactly_once_an_epoch(lengths, layout, epochs, sequences) -> None:
    made = plan(lengths, layout, epochs=float(epochs), sequences=sequences)
    order = rows_of(made.steps)
    for epoch in range(epochs):
        assert sorted(order[epoch * len(lengths) : (epoch + 1) * len(lengths)]) == list(range(len(lengths)))
    assert made.epoch(len(made.steps)) == epochs


@given(lengths=LENGTHS, layout=st.sampled_from(LAYOUTS), size=st.integers(1, 9), ranks=st.integers(1, 4))
def test_cuts_of_any_size_for_any_number_of_processes_hold_the_same_step(lengths, layout, size, ranks) -> None:
    for step in plan(lengths, layout).steps:
        shares = [list(micro_batches(step, lengths, size, rank=rank, ranks=ranks)) for rank in range(ranks)]
        cut = [sequence for share in shares for micro in share for sequence in micro]
        assert Counter(map(tuple, cut)) == Counter(map(tuple, step))
        sizes = [len(micro) for share in shares for micro in share]
        assert max(sizes) <= size
        counts = [sum(len(micro) for micro in share) for share in shares]
        assert max(counts) - min(counts) <= 1


@given(lengths=LENGTHS)
def test_packs_hold_whole_conversations_within_their_length(lengths) -> None:
    packs = best_fit(range(len(lengths)), lengths, 64)
    assert sorted(row for pack in packs for row in pack) == list(range(len(lengths)))
    assert all(sum(lengths[row] for row in pack) <= 64 for pack in packs)
    # two packs that could have been one are never left
    free = sorted(sum(lengths[row] for row in pack) for pack in packs)
    assert len(free) < 2 or free[0] + free[1] > 64


def test_best_fit_takes_the_pack_with_least_room() -> None:
    assert best_fit([0, 1, 2, 3], [60, 50, 14, 4], 64) == [[0, 3], [1, 2]]


def test_row_longer_than_a_pack_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1 has 65 tokens"):
        best_fit([0, 1], [3, 65], 64)


def test_plan_of_fewer_steps_is_the_beginning_of_a_longer_one() -> None:
    lengths = [random.Random(1).randint(1, 64) for _ in range(50)]
    for layout in LAYOUTS:
        long = plan(lengths, layout, epochs=None, steps=40).steps
        assert plan(lengths, layout, epochs=None, steps=7).steps == long[:7]
        assert len(long) == 40


def test_part_of_an_epoch_is_that_part_of_its_steps_rounded_up() -> None:
    whole = plan([1] * 38, "padded").steps
    assert len(whole) == 10
    assert plan([1] * 38, "padded", epochs=0.25).steps == whole[:3]
    assert plan([1] * 38, "padded", epochs=0.5).steps == whole[:5]
    assert plan([1] * 38, "padded", epochs=2.5).steps[:10] == whole
    assert len(plan([1] * 38, "padded", epochs=2.5).steps) == 25


def test_last_step_of_an_epoch_has_what_remains() -> None:
    made = plan([1] * 10, "padded", epochs=2.0)
    assert [len(step) for step in made.steps] == [4, 4, 2, 4, 4, 2]
    assert [made.epoch(step) for step in range(1, 7)] == [0.4, 0.8, 1.0, 1.4, 1.8, 2.0]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    made = rows_of(plan([1] * 40, "padded", epochs=2.0).steps)
    assert made[:40] != made[40:]
    assert made[:40] != rows_of(plan([1] * 40, "padded", seed=4).steps)
    assert made[:40] != list(range(40))


def test_order_is_the_same_as_ever() -> None:
    # written down: another Python or a refactoring must not change what people's seeds mean
    assert draw_order(12, "3407/1") == [7, 5, 6, 4, 8, 10, 2, 3, 0, 9, 11, 1]


def test_micro_batches_are_about_as_large_and_longest_first() -> None:
    lengths = [5, 9, 1, 7, 3, 2, 8]
    step = [[row] for row in range(7)]
    cut = list(micro_batches(step, lengths, 3))
    assert cut == [[[1], [6]], [[3], [0]], [[4], [5], [2]]]
    assert list(micro_batches(step[:1], lengths, 3, rank=1, ranks=2)) == []


def test_packs_of_chat_lengths_are_nearly_full() -> None:
    draw = random.Random(7)
    lengths = [min(2048, max(30, int(draw.lognormvariate(6.2, 0.7)))) for _ in range(3 * WINDOW)]
    packs = pack_epoch(draw_order(len(lengths), "0"), lengths, 2048, "0")
    assert sum(lengths) / (len(packs) * 2048) > 0.99
