"""What the model's forward passes were given, counted as they were: steps, conversations, sequences, tokens, and how they lay."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from stages.training.batches import MicroBatch
from stages.training.step_plan import Layout


@dataclass
class SeenSteps:
    """Of one process, or of all that share a training."""

    conversations: dict[int, int] = field(default_factory=dict)
    """{step: conversations}."""
    tokens: dict[int, int] = field(default_factory=dict)
    """{step: tokens with filling}."""
    largest: int = 0
    """Sequences in a micro-batch, at most."""
    layouts: set[Layout] = field(default_factory=set)
    pack_lengths: set[float] = field(default_factory=set)
    """Tokens of a sequence, where whole conversations share one."""
    heldout: int = 0
    """Held-out conversations in the last measure of their loss."""

    def note(self, step: int, batch: MicroBatch, real: int) -> None:
        """Count a micro-batch of a step (from 1). `real`: tokens without filling."""
        ids = batch.inputs["input_ids"]
        self.conversations[step] = self.conversations.get(step, 0) + len(batch.rows)
        self.tokens[step] = self.tokens.get(step, 0) + ids.numel()
        self.largest = max(self.largest, batch.sequences)
        self.layouts.add(tell_layout(batch, real))
        if "attention_mask" not in batch.inputs:
            self.pack_lengths.add(ids.numel() / batch.sequences)

    def tell_layouts(self) -> list[Layout]:
        """The layouts of all batches. One pack may by chance hold a single conversation that fills it: then the others tell."""
        found = self.layouts - {"flattened"} if "packed" in self.layouts else self.layouts
        return sorted(found)

    @classmethod
    def merge(cls, parts: Iterable[Self]) -> Self:
        """What all processes have seen together."""
        whole = cls()
        for part in parts:
            for mine, theirs in ((whole.conversations, part.conversations), (whole.tokens, part.tokens)):
                for step, count in theirs.items():
                    mine[step] = mine.get(step, 0) + count
            whole.largest = max(whole.largest, part.largest)
            whole.layouts |= part.layouts
            whole.pack_lengths |= part.pack_lengths
            whole.heldout += part.heldout
        return whole


def tell_layout(batch: MicroBatch, real: int) -> Layout:
    """How a batch lies, by what the model is given. `real`: tokens without filling."""
    if "attention_mask" in batch.inputs:
        return "padded"
    shared = batch.sequences < len(batch.rows) or batch.inputs["input_ids"].numel() > real
    return "packed" if shared else "flattened"
