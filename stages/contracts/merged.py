"""data/merged: the adapter folded into the 16-bit base, a transformers folder. Written by `merge`, read by `gguf` and `audit`."""

from typing import TypedDict

MARKER = "merged.json"
"""What was folded into what: a `Marker`. A folder that holds it is no base for the same adapter."""

CHECKS = "checks.json"
"""A `Checks`."""


class Marker(TypedDict):
    """sha256 of everything that made the merged weights, and of what came out."""

    base: dict[str, str]
    adapter: str
    """sha256 of adapter_model.safetensors."""
    files: dict[str, str]
    """{file name: sha256} of the merged config and weights."""


class Checks(TypedDict):
    """Merged model against base + adapter (through PEFT), both in fp32, at labelled positions of held-out rows."""

    rows: int
    positions: int
    max_logit_difference: float
    """Largest |difference| of one logit."""
    mean_kl: float
    """Mean KL divergence of merged from base + adapter, nats a position."""
    top1_agreement: float
    """Share of positions where both prefer the same token."""
    max_change_from_base: float
    """Largest |difference| of one logit between base + adapter and the base alone: what the fine-tuning changed."""
