"""Greedy answers of a causal model that go on where a forward pass of the whole dialogue stops being the model's own words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stages.core.errors import StageError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import DynamicCache


@dataclass(frozen=True)
class OpenAnswer:
    """A turn whose answer is not what the forward pass has said: generation goes on from `said`."""

    row: int
    turn: int
    place: int
    """The row's place in its batch."""
    prompt: int
    """Tokens before the answer."""
    said: list[int]
    """What the model has said so far; its last token is not in the cache."""


@dataclass(frozen=True)
class StopRule:
    """When an answer ends."""

    ids: frozenset[int]
    """Any of these ends it."""
    sequence: list[int]
    """So does this run of ids: the end of turn, where no token of its own stands for it."""
    longest: int
    """So does this many tokens."""

    def after(self, said: Sequence[int]) -> bool:
        """Whether an answer ends here."""
        return len(said) >= self.longest or said[-1] in self.ids or list(said[-len(self.sequence) :]) == self.sequence


def forward(
    model: "PeftModel", rows: Sequence[Sequence[int]], place: str, *, keep: bool
) -> "tuple[torch.Tensor, DynamicCache | None]":
    """Hidden states (rows x longest x width) of right-padded rows, and with `keep` their keys and values."""
    import torch
    from transformers import DynamicCache

    longest = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = torch.tensor(row)
        mask[at, : len(row)] = 1
    cache = DynamicCache() if keep else None
    found = backbone(model)(
        input_ids=ids.to(place), attention_mask=mask.to(place), past_key_values=cache, use_cache=keep
    )
    return found.last_hidden_state, cache


def backbone(model: "PeftModel") -> Any:  # noqa: ANN401 - transformers' own base class
    """The model below its output head, adapters in place."""
    return model.get_base_model().base_model


def compute_logits(model: "PeftModel", hidden: "torch.Tensor") -> "torch.Tensor":
    """fp32 logits (positions x vocabulary) of hidden states."""
    layer = model.get_base_model().get_output_embeddings()
    found: torch.Tensor = layer(hidden.to(layer.weight.dtype)).float()
    return found


def check_head(model: "PeftModel", place: str) -> None:
    """Raise StageError if this architecture does more to its logits than its output head does: `head` would be wrong there."""
    import torch

    with torch.inference_mode():
        ids = torch.tensor([[1, 2, 3]], device=place)
        whole = model(input_ids=ids).logits[0].float()
        ours = compute_logits(model, backbone(model)(input_ids=ids).last_hidden_state[0])
    if not torch.allclose(whole, ours, rtol=1e-2, atol=1e-2):
        kind = type(model.get_base_model()).__name__
        raise StageError(f"{kind} changes its logits after the output head, which `evaluate` does not know how to do")


def cut_at_difference(reference: Sequence[int], chosen: Sequence[int]) -> list[int]:
    """The first choices up to and with the first that is not the reference's: all that greedy decoding is known to say."""
    for count, (wanted, got) in enumerate(zip(reference, chosen, strict=True)):
        if wanted != got:
            return list(chosen[: count + 1])
    return list(chosen)


def generate(
    model: "PeftModel", cache: "DynamicCache | None", open_answers: Sequence[OpenAnswer], stop: StopRule, place: str
) -> Iterator[tuple[OpenAnswer, list[int]]]:
    """Several open answers, greedily, at once, each from its own part of the batch's keys and values, padded on the left."""
    import torch

    if cache is None:
        return
    kept = [answer.prompt + len(answer.said) - 1 for answer in open_answers]
    past, mask = pad_left(cache, [answer.place for answer in open_answers], kept, place)
    said = [list(answer.said) for answer in open_answers]
    positions = torch.tensor(kept, device=place)
    running = [True] * len(open_answers)
    while any(running):
        mask = torch.cat([mask, torch.ones(len(open_answers), 1, dtype=mask.dtype, device=place)], dim=1)
        found = backbone(model)(
            input_ids=torch.tensor([[answer[-1]] for answer in said], device=place),
            attention_mask=mask,
            position_ids=positions[:, None],
            past_key_values=past,
            use_cache=True,
        )
        positions = positions + 1
        for at, token in enumerate(compute_logits(model, found.last_hidden_state[:, -1]).argmax(-1).tolist()):
            if running[at]:
                said[at].append(token)
                running[at] = not stop.after(said[at])
    yield from zip(open_answers, said, strict=True)


def pad_left(
    cache: "DynamicCache", places: Sequence[int], kept: Sequence[int], place: str
) -> "tuple[DynamicCache, torch.Tensor]":
    """A cache of the first `kept` keys and values of the rows `places`, aligned at their ends, and the mask of what is there."""
    import torch
    from transformers import DynamicCache

    longest = max(kept)
    past = DynamicCache()
    for number, layer in enumerate(cache.layers):
        aligned = []
        for states in (layer.keys, layer.values):
            block = states.new_zeros(len(places), states.shape[1], longest, states.shape[3])
            for at, (row, count) in enumerate(zip(places, kept, strict=True)):
                block[at, :, longest - count :] = states[row, :, :count]
            aligned.append(block)
        past.update(*aligned, number)
    mask = torch.zeros(len(places), longest, dtype=torch.long, device=place)
    for at, count in enumerate(kept):
        mask[at, longest - count :] = 1
    return past, mask
