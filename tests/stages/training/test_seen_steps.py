from dataclasses import dataclass

from stages.training.batches import MicroBatch
from stages.training.seen_steps import SeenSteps, tell_layout


@dataclass
class Ids:
    """What is asked of a tensor: how many elements it has."""

    count: int

    def numel(self) -> int:
        return self.count


def batch(rows: int, tokens: int, *, sequences: int | None = None, padded: bool = False) -> MicroBatch:
    inputs = {"input_ids": Ids(tokens), **({"attention_mask": Ids(tokens)} if padded else {})}
    return MicroBatch(list(range(rows)), inputs, rows if sequences is None else sequences, 1)  # type: ignore[arg-type]


def test_layout_is_told_by_what_the_model_is_given() -> None:
    assert tell_layout(batch(3, 30, padded=True), 21) == "padded"
    assert tell_layout(batch(3, 21), 21) == "flattened"
    assert tell_layout(batch(3, 21, sequences=1), 21) == "packed", "several conversations in a sequence"
    assert tell_layout(batch(1, 32, sequences=1), 21) == "packed", "filled up"


def test_steps_of_all_processes_are_counted_together() -> None:
    first, second = SeenSteps(), SeenSteps()
    first.note(1, batch(3, 64, sequences=2), 50)
    first.note(1, batch(1, 32, sequences=1), 32)
    first.note(2, batch(2, 64, sequences=2), 60)
    second.note(1, batch(2, 32, sequences=1), 30)
    second.heldout = 3
    whole = SeenSteps.merge([first, second])
    assert (whole.conversations, whole.tokens) == ({1: 6, 2: 2}, {1: 128, 2: 64})
    assert (whole.largest, whole.heldout, whole.pack_lengths) == (2, 3, {32.0})
    # a pack that one conversation fills looks flattened: the others tell
    assert first.layouts == {"packed", "flattened"}
    assert whole.tell_layouts() == ["packed"]


def test_layouts_that_were_mixed_are_both_told() -> None:
    seen = SeenSteps()
    seen.note(1, batch(2, 20, padded=True), 20)
    seen.note(1, batch(2, 20), 20)
    assert seen.tell_layouts() == ["flattened", "padded"]
