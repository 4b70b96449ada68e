"""A base model's sizes, from its config.json and the shapes of its tensors. Pure, without torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class ModelShape:
    """A base model's sizes."""

    kind: str
    """config.json's model_type."""
    hidden: int
    mlp: int
    layers: int
    heads: int
    key_heads: int
    width: int
    """Of a head."""
    rows: int
    """Of the embedding while training."""
    tied: bool
    """Whether the embedding is the output head too."""
    matrices: "Mapping[str, tuple[int, int]]"
    """{name: (out, in)} of the linear layers, those that are quantized."""
    other: int
    """Weights that stay in 16 bit: embedding, head, norms."""

    @classmethod
    def of(
        cls, config: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]], rows: int | None = None
    ) -> "ModelShape":
        """From config.json and {tensor name: shape} of the weights.

        Args:
            config: of a transformers folder.
            tensors: all of the model's files.
            rows: of the embedding while training; None: the base's own.

        Raises:
            ValueError: the config lacks a size.
        """
        text = config.get("text_config", config)
        try:
            hidden, heads, vocabulary = (int(text[key]) for key in ("hidden_size", "num_attention_heads", "vocab_size"))
            layers, mlp = int(text["num_hidden_layers"]), int(text["intermediate_size"])
        except (KeyError, TypeError) as error:
            msg = f"the base's config.json says no {error}, so its memory cannot be estimated"
            raise ValueError(msg) from error
        ends = ("embed_tokens.weight", "lm_head.weight", "wte.weight", "wpe.weight")
        matrices = {
            name: (shape[0], shape[1])
            for name, shape in tensors.items()
            if len(shape) == 2 and name.endswith(".weight") and not name.endswith(ends)  # noqa: PLR2004 - a matrix
        }
        rows = max(rows or 0, vocabulary)
        tied = not any(name.endswith("lm_head.weight") for name in tensors)
        total = sum(math.prod(shape) for shape in tensors.values())
        more = (rows - vocabulary) * hidden * (1 if tied else 2)
        return cls(
            kind=str(text.get("model_type", "")),
            hidden=hidden,
            mlp=mlp,
            layers=layers,
            heads=heads,
            key_heads=int(text.get("num_key_value_heads") or heads),
            width=int(text.get("head_dim") or hidden // heads),
            rows=rows,
            tied=tied,
            matrices=matrices,
            other=total - sum(out * into for out, into in matrices.values()) + more,
        )

    @cached_property
    def linear(self) -> int:
        """Weights of the linear layers."""
        return sum(out * into for out, into in self.matrices.values())

    @property
    def head(self) -> int:
        """Weights of the output head."""
        return self.rows * self.hidden

    @property
    def qkv(self) -> int:
        """Columns of q, k and v together."""
        return (self.heads + 2 * self.key_heads) * self.width

    @cached_property
    def first_layer(self) -> dict[str, tuple[int, int]]:
        """{projection: (out, in)} of one layer."""
        found: dict[str, tuple[int, int]] = {}
        for name, shape in self.matrices.items():
            found.setdefault(name.removesuffix(".weight").rpartition(".")[2], shape)
        return found
