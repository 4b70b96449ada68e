"""data/merged: the adapter folded into the base, a transformers folder. Written by `merge`, read by `gguf`, `audit` and `report`."""

from typing import Literal, TypedDict

CHECKS = "checks.json"
"""`MergeChecks`."""

Into = Literal["base16", "dequantized_nf4"]
"""What the adapter was folded into: the 16-bit base, or the base as training saw it in NF4."""


class Marker(TypedDict):
    """`stages.contracts.base.MERGED_MARKER`: sha256 of everything that made the merged weights, and of what came out."""

    base: dict[str, str]
    adapter: str
    """sha256 of adapter_model.safetensors."""
    into: Into
    files: dict[str, str]
    """{file name: sha256} of the merged config and weights."""


class Losses(TypedDict):
    """Mean negative log-likelihood of the labelled tokens that the check looked at, nats a token, all models in fp32.

    null: not measured, since the training was not in 4 bit or the model was checked whole.
    """

    base: float
    """The 16-bit base alone."""
    adapter_base16: float | None
    """The adapter beside the 16-bit base; null where it was folded into the dequantized NF4 base."""
    adapter_4bit: float | None
    """The adapter on the NF4 base: the function that was trained, where training was in 4 bit."""
    merged_base16: float | None
    """The adapter folded into the 16-bit base, rounded to its dtype."""
    merged_dequantized_nf4: float | None
    """The adapter folded into the dequantized NF4 base, rounded to the base's dtype."""


class MergeChecks(TypedDict):
    """Merged model against base + adapter (through PEFT, on the base that `into` names), both in fp32, at labelled positions of held-out rows."""

    into: Into
    load_in_4bit: bool
    """Whether the adapter was trained on the base in NF4, so that `adapter_4bit` is the function that was trained."""
    rows: int
    positions: int
    max_logit_difference: float
    """Largest |difference| of one logit."""
    mean_kl: float
    """Mean KL divergence of merged from base + adapter, nats a position."""
    top1_agreement: float
    """Share of positions where both prefer the same token."""
    max_change_from_base: float
    """Largest |difference| of one logit between base + adapter and that base alone: what the fine-tuning changed."""
    losses: Losses
