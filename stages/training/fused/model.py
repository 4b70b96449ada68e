"""A faster training forward and backward for Llama-shaped models with LoRA, exact in its mathematics, put in place of the model's own.

`attach(model)` after `get_peft_model`. From then on `model(input_ids, labels, packed_seq_lengths=...)` in training mode runs the two
halves of each layer and the loss of `fused.blocks`; everything else (evaluation, generation, padded batches) runs as before.
What makes it faster: the low-rank products ride in the large ones (`fused.projections`), q k v and gate up are one product each, the
element-wise work is one pass each, attention stays within documents, and only rows with a label reach the last MLP and the head.
"""

import types
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from stages.contracts.tokens import NOT_TRAINED
from stages.training.fused.attention import Documents
from stages.training.fused.blocks import Attention, AttentionHalf, FlatBatch, Loss, Mlp, MlpHalf, Pick
from stages.training.fused.projections import ProjectionGroup, SharedBuffers, refresh
from stages.training.fused.sharding import FORWARD, TRAINING, Shards
from stages.training.fused.support import find_projection, find_unsupported
from stages.training.fused_coverage import GROUPS, TILE

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


def attach(
    model: "Module",
    *,
    kept_layers: int | None = None,
    loss_rows: int = 4096,
    resident: bool = False,
    shards: Shards | None = None,
) -> str | None:
    """Put the fused training forward in place. Returns why not, if this model is not one it knows; the model is then as it was.

    Args:
        model: a PEFT causal model.
        kept_layers: layers, from the last, whose activations are kept for the backward; the others make most of theirs again there
            (gradient checkpointing). None: all.
        loss_rows: rows of logits held at a time; each takes 2 bytes a word of the vocabulary.
        resident: keep 4-bit weights dequantized as well (2 bytes a weight more), so that no step has to.
        shards: spread the linear layers over the processes of a training; the rest of the model goes to the device of `shards`. All that
            the model can do then is the loss of flat batches, with or without gradients.
    """
    reason = find_unsupported(model)
    if reason is not None:
        return reason
    fused = FusedModel(model, kept_layers=kept_layers, loss_rows=loss_rows, resident=resident, shards=shards)
    if shards is not None:
        model.to(shards.place)
    usual = model.forward

    def forward(self: "Module", *rest: Any, **named: Any) -> Any:  # noqa: ANN401
        lengths, rows = named.get("packed_seq_lengths"), named.pop("labelled_rows", None)
        known = lengths is not None and named.get("labels") is not None and not rest
        if not known or (shards is None and not (self.training and torch.is_grad_enabled())):
            return usual(*rest, **named)
        from transformers.modeling_outputs import CausalLMOutputWithPast

        loss = fused.loss(named["input_ids"], named["labels"], lengths, named.get("num_items_in_batch"), rows)
        return CausalLMOutputWithPast(loss=loss)

    model.forward = types.MethodType(forward, model)
    return None


class FusedModel:
    """The layers of a model as halves, and the loss of a batch through them."""

    def __init__(
        self, model: "Module", *, kept_layers: int | None, loss_rows: int, resident: bool, shards: Shards | None
    ) -> None:
        causal = model.get_base_model()
        decoder = causal.model
        self.causal, self.decoder, self.loss_rows = causal, decoder, loss_rows
        embedding = model.get_input_embeddings()
        self.embedding = embedding
        self.dtype = decoder.norm.weight.dtype if embedding.weight.dtype == torch.float32 else embedding.weight.dtype
        config = causal.config
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        kept = len(decoder.layers) if kept_layers is None else kept_layers
        shared = SharedBuffers()
        place = embedding.weight.device if shards is None else shards.place
        tile = TILE if place.type == "cuda" else 1
        self.layers: list[tuple[AttentionHalf, MlpHalf]] = []
        before = 0
        for number, layer in enumerate(decoder.layers):
            groups = [
                ProjectionGroup(
                    [find_projection(layer, name) for name in names],
                    shared,
                    self.dtype,
                    tile=tile,
                    resident=resident,
                    kind=kind,
                    shards=shards,
                )
                for kind, names in enumerate(GROUPS)
            ]
            keep = number >= len(decoder.layers) - kept
            first = AttentionHalf(
                norm=layer.input_layernorm.weight,
                eps=layer.input_layernorm.variance_epsilon,
                qkv=groups[0],
                o=groups[1],
                heads=config.num_attention_heads,
                key_heads=config.num_key_value_heads,
                width=width,
                scale=width**-0.5,
                before=before,
                keep=keep,
            )
            second = MlpHalf(
                norm=layer.post_attention_layernorm.weight,
                eps=layer.post_attention_layernorm.variance_epsilon,
                gate_up=groups[2],
                down=groups[3],
                before=groups[1].ranks,
                keep=keep,
            )
            before = groups[3].ranks
            self.layers.append((first, second))
        self.groups = [group for one, two in self.layers for group in (one.qkv, one.o, two.gate_up, two.down)]
        self.table: tuple[Tensor, Tensor] | None = None
        self.shards = shards
        if shards is not None:
            shards.passes = {FORWARD: self.groups, TRAINING: [*self.groups, *self.backward_groups()]}

    def backward_groups(self) -> "Iterator[ProjectionGroup]":
        """The groups whose weights a backward pass asks for, in its order: once more where activations are made again."""
        trained = any(part.requires_grad for part in self.embedding.parameters())
        for number, (first, second) in reversed(list(enumerate(self.layers))):
            if not second.keep:
                yield second.gate_up
            yield second.down
            yield second.gate_up
            yield first.o
            if not first.keep:
                yield first.qkv
            if number or trained:
                yield first.qkv

    def loss(
        self,
        input_ids: "Tensor",
        labels: "Tensor",
        lengths: "Sequence[int] | Tensor",
        items: "Tensor | float | None" = None,
        rows: "Tensor | None" = None,
    ) -> "Tensor":
        """Sum of the losses of all labelled tokens, over `items` (None: over their number).

        Args:
            input_ids: any shape of T elements, documents one after the other.
            labels: its shape; the first token of a document is never predicted.
            lengths: of the documents, together T. Best a list: a tensor on the GPU has to be waited for.
            items: labelled tokens of the whole optimizer step.
            rows: what `labelled_rows` gives for these labels; None: worked out here, for which the CPU has to wait for the GPU.
        """
        lengths = lengths.tolist() if isinstance(lengths, torch.Tensor) else [int(length) for length in lengths]
        ids, labels = input_ids.reshape(-1), labels.reshape(-1)
        if sum(lengths) != ids.numel():
            raise ValueError(f"the documents have {sum(lengths)} tokens together, the batch {ids.numel()}")
        with torch.autocast(ids.device.type, enabled=False):
            rows = find_labelled_rows(labels, lengths) if rows is None else rows
            return self.loss_of(ids, labels, Documents.of(lengths, ids.device), items, rows)

    def loss_of(
        self, ids: "Tensor", labels: "Tensor", documents: Documents, items: "Tensor | float | None", rows: "Tensor"
    ) -> "Tensor":
        """See `loss`."""
        if self.shards is not None:
            self.shards.begin(TRAINING if torch.is_grad_enabled() else FORWARD)
        targets = labels[rows + 1]
        refresh(self.groups)
        batch = FlatBatch(documents, self.angles(documents.longest, ids.device))
        residual, y = None, self.embedding(ids).to(self.dtype)
        if not any(part.requires_grad for part in self.embedding.parameters()):
            # gradient checkpointing of others' making lets the embedding's output ask for a gradient that nobody needs
            y = y.detach()
        for number, (first, second) in enumerate(self.layers):
            residual, y = Attention.apply(residual, y, first, batch, *first.qkv.parameters, *first.o.parameters)
            if number == len(self.layers) - 1:
                residual, y = Pick.apply(residual, y, rows, second.before)
            residual, y = Mlp.apply(residual, y, second, *second.gate_up.parameters, *second.down.parameters)
        norm = self.decoder.norm
        summed: Tensor = Loss.apply(
            residual, y, norm.weight, norm.variance_epsilon, self.causal.lm_head.weight, targets, self.loss_rows,
            self.layers[-1][1].down.ranks,
        )  # fmt: skip
        return summed / (len(rows) if items is None else items)

    def angles(self, longest: int, device: torch.device) -> "tuple[Tensor, Tensor]":
        """Cosines and sines for at least `longest` positions, [positions, half a head's width], as the model's own module has them."""
        if self.table is None or self.table[0].shape[0] < longest:
            size = 1 << (longest - 1).bit_length()
            like = torch.zeros(1, dtype=torch.promote_types(self.dtype, torch.float32), device=device)
            with torch.no_grad():
                cos, sin = self.decoder.rotary_emb(like, position_ids=torch.arange(size, device=device)[None])
            half = cos.shape[-1] // 2
            self.table = (cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous())
        return self.table


def find_labelled_rows(labels: "Tensor", lengths: Sequence[int]) -> "Tensor":
    """int64: the tokens whose next token, in the same document, has a label. Best on the CPU, where a batch is made.

    Args:
        labels: of any shape, -100 where nothing is learned.
        lengths: of the documents that lie in it one after the other.
    """
    labelled = labels.reshape(-1) != NOT_TRAINED
    firsts = torch.tensor([0, *lengths[:-1]]).cumsum(0)
    labelled[firsts.to(labels.device)] = False
    return labelled.nonzero()[:, 0] - 1
