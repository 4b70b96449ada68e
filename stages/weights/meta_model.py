"""A causal language model of transformers without its weights: the modules on the meta device, and where the weights go."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stages.models.safetensors_header import StoredTensor

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Unfit(Exception):  # noqa: N818 - no fault: such a model is checked another way
    """Why a model cannot be run layer by layer."""


@dataclass(frozen=True)
class MetaModel:
    """A model whose parameters have shapes and no values, and its parts."""

    model: "PreTrainedModel"
    layers: "dict[str, torch.nn.Module]"
    """{name: decoder layer}, in the order of their work."""
    embedding: str
    """Name of the embedding's weight."""
    head: str
    """Name of the weight that gives the logits: the embedding's where they are tied."""
    own_head: str
    """Name of the head's weight where it is not tied."""

    @property
    def rest(self) -> list[str]:
        """Names of what is neither in a decoder layer nor embedding or head: the last norm, mostly."""
        apart = {self.embedding, self.own_head, self.own_head.removesuffix("weight") + "bias"}
        inside = tuple(f"{name}." for name in self.layers)
        return [name for name in self.model.state_dict() if name not in apart and not name.startswith(inside)]


def build_meta_model(folder: Path, adapter: Path | None = None) -> MetaModel:
    """The model of a folder's config.json, for fp32, with PEFT's layers of an adapter in it if one is given.

    Raises Unfit if it has no one list of decoder layers, or no plain embedding and head.
    """
    import torch
    from accelerate import init_empty_weights  # type: ignore[import-untyped]
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    # buffers are worked out by the model itself (rotary frequencies) and are in no file
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    model.eval()
    text = config.get_text_config()
    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == text.num_hidden_layers
    }
    outer = [name for name in lists if not name.startswith(tuple(f"{other}." for other in lists))]
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if len(outer) != 1 or not isinstance(embedding, torch.nn.Embedding) or type(head) is not torch.nn.Linear:
        raise Unfit("it has not one list of decoder layers between an embedding and a linear head")
    names = {id(module): f"{name}.weight" for name, module in model.named_modules()}
    if adapter is not None:
        add_adapter(model, adapter)
    return MetaModel(
        model=model,
        layers={f"{outer[0]}.{number}": layer for number, layer in enumerate(lists[outer[0]])},
        embedding=names[id(embedding)],
        head=names[id(embedding)] if text.tie_word_embeddings else names[id(head)],
        own_head=names[id(head)],
    )


def add_adapter(model: "PreTrainedModel", adapter: Path) -> None:
    """Put PEFT's layers into a model on the meta device. Trained rows and whole tensors are no layers: `Variant` gives them."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig.from_pretrained(str(adapter))
    config.trainable_token_indices = None
    config.modules_to_save = None
    config.inference_mode = True
    inject_adapter_in_model(config, model, low_cpu_mem_usage=True)
    model.eval()


def check_names(meta_model: MetaModel, tensors: Mapping[str, StoredTensor]) -> None:
    """Raise Unfit unless the files hold every weight of a model without adapter, by its name and in its shape."""
    for name, weight in meta_model.model.state_dict().items():
        tied = name == meta_model.own_head != meta_model.head
        if not tied and (name not in tensors or tensors[name].shape != tuple(weight.shape)):
            raise Unfit(f"its files do not hold {name} {tuple(weight.shape)} as transformers has it")


def linear_weights(meta_model: MetaModel) -> frozenset[str]:
    """The weights that bitsandbytes quantizes: of every linear layer but the head. For a model without adapter."""
    import torch

    head = meta_model.model.get_output_embeddings()
    return frozenset(
        f"{name}.weight"
        for name, module in meta_model.model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    )
