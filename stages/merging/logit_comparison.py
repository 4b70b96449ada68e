"""How several models agree at the same positions, from logits that come a part of the vocabulary at a time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass
class LogitComparison:
    """Sums over the vocabulary, for each model and position, in fp64; what one part of the vocabulary adds to them is not kept."""

    reference: str
    """The model that all others are compared with."""
    targets: "torch.Tensor"
    """The token that follows each position."""
    top: "dict[str, torch.Tensor]" = field(default_factory=dict)
    """Largest logit so far."""
    choice: "dict[str, torch.Tensor]" = field(default_factory=dict)
    """Its token."""
    total: "dict[str, torch.Tensor]" = field(default_factory=dict)
    """Sum of exp(logit - top)."""
    wanted: "dict[str, torch.Tensor]" = field(default_factory=dict)
    """The target's logit."""
    apart: "dict[str, torch.Tensor]" = field(default_factory=dict)
    """Sum of exp(reference - its top) * (reference - logit)."""
    difference: "dict[str, torch.Tensor]" = field(default_factory=dict)
    """Largest |reference - logit|."""

    def add(self, first: int, logits: "Mapping[str, torch.Tensor]") -> None:
        """Add the logits, positions x tokens, of the tokens from `first` on, for every model."""
        import torch

        parts = {name: part.double() for name, part in logits.items()}
        count = self.targets.shape[0]
        if not self.top:
            for name in parts:
                self.top[name] = torch.full((count,), -math.inf, dtype=torch.float64, device=self.targets.device)
                self.choice[name] = torch.zeros_like(self.targets)
                for sums in (self.total, self.wanted, self.apart, self.difference):
                    sums[name] = torch.zeros_like(self.top[name])
        reference = parts[self.reference]
        before = self.top[self.reference]
        for name, part in parts.items():
            highest, where = part.max(-1)
            self.choice[name] = torch.where(highest > self.top[name], where + first, self.choice[name])
            top = torch.maximum(self.top[name], highest)
            self.total[name] = self.total[name] * (self.top[name] - top).exp() + (part - top[:, None]).exp().sum(-1)
            self.top[name] = top
            here = (self.targets >= first) & (self.targets < first + part.shape[1])
            inside = (self.targets - first).clamp(0, part.shape[1] - 1)
            self.wanted[name] = torch.where(here, part.gather(1, inside[:, None])[:, 0], self.wanted[name])
            self.difference[name] = torch.maximum(self.difference[name], (reference - part).abs().amax(-1))
        top = self.top[self.reference]
        weights = (reference - top[:, None]).exp()
        for name, part in parts.items():
            self.apart[name] = self.apart[name] * (before - top).exp() + (weights * (reference - part)).sum(-1)

    def losses(self, name: str) -> "torch.Tensor":
        """For each position the negative log-likelihood of its target, nats."""
        return self.top[name] + self.total[name].log() - self.wanted[name]

    def divergences(self, name: str) -> "torch.Tensor":
        """For each position the KL divergence of a model from the reference, nats."""
        normal = {key: self.top[key] + self.total[key].log() for key in (name, self.reference)}
        return self.apart[name] / self.total[self.reference] - normal[self.reference] + normal[name]


def concatenate(comparisons: Sequence[LogitComparison]) -> LogitComparison:
    """One comparison of the positions of several."""
    import torch

    whole = LogitComparison(comparisons[0].reference, torch.cat([one.targets for one in comparisons]))
    for key in ("top", "choice", "total", "wanted", "apart", "difference"):
        for name in comparisons[0].top:
            getattr(whole, key)[name] = torch.cat([getattr(one, key)[name] for one in comparisons])
    return whole
