"""A forward pass with one decoder layer's weights in memory at a time, in fp32.

The modules are transformers' own, and so is what lies around the layers: the model's own forward runs twice for each row, once with
layers that only write down what they are called with (embedding, rotary values, masks), once with a last layer that returns what the real
ones made of it (for the norm). What an architecture does between its layers cannot be done so: that is `Unfit`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stages.weights.meta_model import MetaModel, Unfit
from stages.weights.variants import Variant

if TYPE_CHECKING:
    import torch


@dataclass
class ForwardPass:
    """One model's hidden states at the positions asked for, and the way from there to logits."""

    meta_model: MetaModel
    variant: Variant
    place: str
    positions: int

    def logits(self, first: int, last: int) -> "torch.Tensor":
        """Logits, positions x (last - first), of the tokens `first` to `last`, with whatever the architecture does to them."""
        import torch

        bias = self.meta_model.own_head.removesuffix("weight") + "bias"
        chunk = torch.nn.Linear(1, 1, bias=bias in self.variant.tensors, device="meta")
        chunk.weight = parameter(self.variant.read_rows(self.meta_model.head, first, last), self.place)
        if chunk.bias is not None:
            chunk.bias = parameter(self.variant.read_tensor(bias)[first:last], self.place)
        self.meta_model.model.set_output_embeddings(chunk)
        ids = torch.zeros(1, self.positions, dtype=torch.long, device=self.place)
        with torch.no_grad():
            found: torch.Tensor = self.meta_model.model(input_ids=ids, use_cache=False).logits[0]
        # the model holds the module until the next call, and several passes go side by side
        del chunk.weight, chunk.bias
        return found


@dataclass
class Recorder:
    """Stands in the place of the layers: writes down their calls and hands on what it gets, after the last one `final`."""

    count: int
    final: "torch.Tensor | None" = None
    calls: "list[tuple[tuple[Any, ...], dict[str, Any]]]" = field(default_factory=list)
    given: "torch.Tensor | None" = None
    """What the first layer got."""
    handed_on: "torch.Tensor | None" = None
    output: Any = None
    """What the model made of it."""

    def make_forward(self, number: int) -> Any:  # noqa: ANN401 - a forward of any signature
        """The forward of the layer with this number."""

        def forward(*args: Any, **kwargs: Any) -> "torch.Tensor":  # noqa: ANN401 - the architecture's own
            hidden: torch.Tensor = args[0] if args else kwargs.pop("hidden_states")
            if number != len(self.calls) or (number and hidden is not self.handed_on):
                raise Unfit("it does something between its decoder layers")
            self.given = hidden if number == 0 else self.given
            self.calls.append((args[1:], kwargs))
            self.handed_on = hidden.clone() if self.final is None or number < self.count - 1 else self.final
            return self.handed_on

        return forward


def run_layers(
    meta_model: MetaModel, variant: Variant, rows: Sequence[tuple[Sequence[int], Sequence[int]]], place: str
) -> ForwardPass:
    """Run rows through a model, each layer once for all of them.

    Args:
        meta_model: of the model; used up by it.
        variant: its weights.
        rows: (ids, positions whose hidden states are wanted) each.
        place: cuda or cpu.

    Raises Unfit if the architecture does something between its layers.
    """
    import torch

    model = meta_model.model
    shorten_embedding(meta_model, variant, sorted({number for ids, _ in rows for number in ids}), place)
    model.load_state_dict(
        {name: variant.read_tensor(name).to(place) for name in meta_model.rest}, strict=False, assign=True
    )
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if not buffer.is_meta:
                setattr(module, name, buffer.to(place))
    inputs = [torch.tensor([ids], device=place) for ids, _ in rows]
    with torch.no_grad():
        recorded = [record(meta_model, ids) for ids in inputs]
        hidden = [recorder.given for recorder in recorded]
        for number, (name, layer) in enumerate(meta_model.layers.items()):
            empty = layer.state_dict()
            layer.load_state_dict({key: variant.read_tensor(f"{name}.{key}").to(place) for key in empty}, assign=True)
            for at, recorder in enumerate(recorded):
                args, kwargs = recorder.calls[number]
                found = layer(hidden[at], *args, **kwargs)
                hidden[at] = found[0] if isinstance(found, tuple) else found
            layer.load_state_dict(empty, assign=True)
        outputs = [record(meta_model, ids, state).output for ids, state in zip(inputs, hidden, strict=True)]
    kept = torch.cat(
        [output.last_hidden_state[0, list(places)] for output, (_, places) in zip(outputs, rows, strict=True)]
    )
    ready = torch.nn.Module()
    answer = type(outputs[0])(last_hidden_state=kept[None])
    ready.forward = lambda *_, **__: answer
    setattr(model, model.base_model_prefix, ready)
    return ForwardPass(meta_model, variant, place, kept.shape[0])


def shorten_embedding(meta_model: MetaModel, variant: Variant, numbers: Sequence[int], place: str) -> None:
    """Give the embedding the rows of the ids `numbers` (sorted) alone, and let it translate the ids that it gets."""
    import torch

    embedding = meta_model.model.get_input_embeddings()
    embedding.weight = parameter(variant.read_single_rows(meta_model.embedding, numbers), place)
    embedding.padding_idx = None  # of the whole vocabulary; it matters to gradients alone
    known = torch.tensor(numbers, device=place)
    embedding.register_forward_pre_hook(lambda _, given: (torch.searchsorted(known, given[0]),))


def record(meta_model: MetaModel, ids: "torch.Tensor", final: "torch.Tensor | None" = None) -> Recorder:
    """The calls of the layers for one row, and what the model makes of `final` in the place of the last layer's output."""
    recorder = Recorder(count=len(meta_model.layers), final=final)
    for number, layer in enumerate(meta_model.layers.values()):
        layer.forward = recorder.make_forward(number)
    recorder.output = meta_model.model.base_model(input_ids=ids, use_cache=False)
    for layer in meta_model.layers.values():
        del layer.forward
    if len(recorder.calls) != recorder.count:
        raise Unfit("it does not call each of its decoder layers once")
    return recorder


def parameter(values: "torch.Tensor", place: str) -> "torch.nn.Parameter":
    """A parameter that is not trained."""
    import torch

    return torch.nn.Parameter(values.to(place), requires_grad=False)
