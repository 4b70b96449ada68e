"""What a model that trains is, by its modules and parameters: the base's quantization and dtype, the adapter's shape, the forward path.

Nothing here asks the params: it is what stands against them in the execution record.
"""

import math
from collections.abc import Sequence
from typing import Any

from stages.core.execution import guard_notes

ADAPTER = "default"
"""PEFT's name of the only adapter."""


def observe_model(model: Any, targets: Sequence[str], saved: Sequence[str]) -> dict[str, object]:  # noqa: ANN401 - a PeftModel
    """{key of params.yaml: what the modules say}.

    Args:
        model: the base with the adapter on it.
        targets: the order in which names of modules are given, those that were asked for.
        saved: the same of modules that are trained whole.
    """
    layers = {name: module for name, module in model.named_modules() if ADAPTER in getattr(module, "lora_A", {})}
    bases = [module.base_layer for module in layers.values()]
    whole = {name for name, module in model.named_modules() if type(module).__name__ == "ModulesToSaveWrapper"}
    return {
        "train.load_in_4bit": tell_4bit(bases),
        "train.dtype": tell_dtype(model, bases),
        "train.lora.r": one_of({module.lora_A[ADAPTER].weight.shape[0] for module in layers.values()}),
        **tell_scaling(list(layers.values())),
        "train.lora.dropout": one_of(
            {float(getattr(module.lora_dropout[ADAPTER], "p", 0.0)) for module in layers.values()}
        ),
        "train.lora.bias": tell_bias(model),
        "train.lora.target_modules": in_order({name.rpartition(".")[2] for name in layers}, targets),
        "train.lora.use_dora": one_of({ADAPTER in (module.lora_magnitude_vector or {}) for module in layers.values()}),
        "train.lora.modules_to_save": in_order({name.rpartition(".")[2] for name in whole}, saved),
        "runtime.device": one_of({value.device.type for value in model.parameters()}),
        "runtime.sharding": tell_sharding(bases),
    }


def tell_4bit(bases: Sequence[Any]) -> object:
    """Whether the layers under the adapter are bitsandbytes' NF4 ones: true, false, or how many of how many are."""
    four = [type(base).__name__ == "Linear4bit" and base.weight.quant_type == "nf4" for base in bases]
    return all(four) if all(four) == any(four) else f"{sum(four)} of {len(four)} layers"


def tell_dtype(model: Any, bases: Sequence[Any]) -> str:  # noqa: ANN401 - a PeftModel
    """The dtypes of the arithmetic: of the embedding, and of the layers' weights, where they are in 4 bit of what they are computed in."""
    found = {model.get_input_embeddings().weight.dtype}
    found |= {getattr(base, "compute_dtype", None) or base.weight.dtype for base in bases}
    return "+".join(sorted(str(dtype).removeprefix("torch.") for dtype in found))


def tell_scaling(layers: Sequence[Any]) -> dict[str, object]:
    """Alpha and the kind of scaling, from the factor that each layer has and the rank of its matrices."""
    alphas, kinds = set(), set()
    for layer in layers:
        rank, factor = layer.lora_A[ADAPTER].weight.shape[0], layer.scaling[ADAPTER]
        alpha = layer.lora_alpha[ADAPTER]
        rooted = math.isclose(factor, alpha / math.sqrt(rank))
        # with a rank of 1 both kinds are the same
        kinds.add(layer.use_rslora.get(ADAPTER, False) if rank == 1 and hasattr(layer, "use_rslora") else rooted)
        alphas.add(round(factor * (math.sqrt(rank) if rooted else rank), 6))
    alpha = one_of(alphas)
    whole = isinstance(alpha, float) and alpha.is_integer()
    return {"train.lora.alpha": int(alpha) if whole else alpha, "train.lora.use_rslora": one_of(kinds)}  # type: ignore[call-overload]


def tell_bias(model: Any) -> str:  # noqa: ANN401 - a PeftModel
    """`none`, or what is trained of biases."""
    named = [name for name, value in model.named_parameters() if value.requires_grad and name.endswith(".bias")]
    trained = [name for name in named if "modules_to_save" not in name]
    return f"{len(trained)} trained" if trained else "none"


def tell_sharding(bases: Sequence[Any]) -> str:
    """`fsdp` where the layers have given up their weights to the processes (`stages.training.fused.sharding`), else `none`."""
    given_up = {all(step == 0 for step in base.weight.stride()) for base in bases}
    return "fsdp" if given_up == {True} else "none"


@guard_notes
def is_fresh(model: Any) -> bool:  # noqa: ANN401 - a PeftModel
    """Whether the adapter changes nothing yet: the second matrix of each layer is zero, as PEFT begins."""
    return not any(bool(value.any()) for name, value in model.named_parameters() if ".lora_B." in name)


@guard_notes
def describe_path(model: Any) -> dict[str, object]:  # noqa: ANN401 - a PeftModel
    """How the forward pass is computed, for the figures of the execution record."""
    from stages.training.fused import model as fused

    base = model.get_base_model()
    attention = next((module for name, module in base.named_modules() if name.endswith("self_attn")), None)
    forward = getattr(attention, "forward", None)
    return {
        "forward": "fused" if getattr(model.forward, "__module__", "") == fused.__name__ else "unsloth",
        "attention": getattr(base.config, "_attn_implementation", None),
        "attention_code": getattr(forward, "__module__", None),
    }


def one_of(found: set[Any]) -> object:
    """The one value that was found; several as a sorted list, none as None."""
    return next(iter(found)) if len(found) == 1 else sorted(found, key=str) or None


def in_order(found: set[str], asked: Sequence[str]) -> list[str]:
    """Names in the order that they were asked in; others after them."""
    return [*(name for name in asked if name in found), *sorted(found - set(asked))]
