"""What a training costs in arithmetic, and about how long that takes. Pure, without torch.

The floating-point operations are counted; the time is an estimate from the rate that a GPU of that name reaches in large bf16
products, a share of it, and what the host needs to start the work of a layer. An earlier run on the same machine says it better.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stages.training.fused_coverage import GROUPS
from stages.training.memory.estimate import ExecutionPlan, MemorySetup

RATES: Mapping[str, float] = {
    "H200": 790e12,
    "H100": 790e12,
    "A100": 270e12,
    "L40S": 300e12,
    "RTX 4090": 160e12,
    "RTX 3090": 70e12,
    "RTX 3060": 25e12,
    "L4": 55e12,
    "A10": 65e12,
    "T4": 25e12,
}
"""Operations a second in large bf16 products (fp16 on a T4), by a part of the GPU's name. H100 and H200 are measured, the others are
about nine tenths of what their makers say."""
UNKNOWN_RATE = 100e12
"""Taken where only one plan is compared with another."""
SHARE = {True: 0.60, False: 0.65}
"""Of the rate, that a training reaches through the fused forward, and through Unsloth's, where it never waits for the host."""
LAYER_SECONDS = {True: 2.2e-3, False: 5e-3}
"""That the host takes to start a layer's work, forward and backward."""


@dataclass(frozen=True)
class Amount:
    """What is to be trained on."""

    tokens: int
    """Without filling."""
    run_tokens: int
    """With filling: what runs through the model."""
    micro_batches: int
    mean_length: float
    """Tokens before a token's document ends, in the mean: attention grows with it. The mean of the squares over the mean."""


def operations(setup: MemorySetup, execution: ExecutionPlan, amount: Amount) -> float:
    """Floating-point operations: the products of weights forward and for the inputs' gradients, causal attention, and what is made again."""
    shape = setup.shape
    attention = shape.layers * 7 * amount.mean_length * shape.heads * shape.width
    a_token = 4 * (shape.linear + shape.head + setup.trained) + attention
    again = 1 - min(execution.kept_layers, shape.layers) / shape.layers
    if setup.fused:
        made_again = sum(
            out * into for group in (GROUPS[0], GROUPS[2]) for out, into in (shape.first_layer[name] for name in group)
        )
        a_token += again * 2 * made_again * shape.layers
    else:
        a_token += again * (2 * shape.linear + attention * 2 / 7)
    return a_token * amount.run_tokens


def seconds(setup: MemorySetup, execution: ExecutionPlan, amount: Amount, rate: float) -> float:
    """The time on a GPU that does `rate` operations a second; an estimate."""
    waiting = amount.micro_batches * setup.shape.layers * LAYER_SECONDS[setup.fused]
    return waiting + operations(setup, execution, amount) / (SHARE[setup.fused] * rate)


def rate_of(name: str) -> float | None:
    """The rate of a GPU by its name; None where it is not known."""
    words = name.replace("-", " ").split()
    known = (rate for part, rate in RATES.items() if all(word in words for word in part.split()))
    return next(known, None)


def squared_mean(lengths: Sequence[int]) -> float:
    """Sum of the squares over the sum."""
    return sum(length * length for length in lengths) / max(sum(lengths), 1)
