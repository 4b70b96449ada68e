"""Which models the fused training forward (`fused.model`) knows, and why not the others."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from stages.training.fused_coverage import AMPERE, MODEL_TYPES, PROJECTIONS, ROPE_KINDS

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


def find_unsupported(model: "Module") -> str | None:
    """Why the fused forward does not know this model; None if it does."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    decoder: Any = getattr(base, "model", None)
    if not hasattr(model, "get_base_model") or not hasattr(decoder, "layers"):
        return "no PEFT decoder"
    return (
        unsupported_config(base.config)
        or unsupported_layers(decoder.layers)
        or unsupported_parameters(model, base)
        or unsupported_device(base.lm_head.weight)
    )


def unsupported_config(config: Any) -> str | None:  # noqa: ANN401
    """What in a model's config the halves do not compute."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kind = rope.get("rope_type", "default") if isinstance(rope, Mapping) else "of several kinds"
    parts = (rope.get("partial_rotary_factor", 1.0), getattr(config, "partial_rotary_factor", 1.0))
    window = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return first_true(
        (config.model_type not in MODEL_TYPES, f"model type {config.model_type}"),
        (config.hidden_act != "silu", f"activation {config.hidden_act}"),
        (kind not in ROPE_KINDS, f"rotary embedding {kind}"),
        (parts != (1.0, 1.0), "a partial rotary embedding"),
        (bool(getattr(config, "attention_dropout", 0.0)), "attention dropout"),
        (bool(window), "sliding-window attention"),
        (bool(getattr(config, "mlp_bias", False)), "biases in the MLP"),
    )


def first_true(*found: tuple[bool, str]) -> str | None:
    """The words beside the first True."""
    return next((words for true, words in found if true), None)


def unsupported_device(weight: "Tensor") -> str | None:
    """The GPU's attention kernel needs an Ampere or newer, and 16 bit."""
    if not weight.is_cuda:
        return None
    major, minor = torch.cuda.get_device_capability(weight.device)
    return first_true(
        (major + minor / 10 < AMPERE, "a GPU older than Ampere"),
        (weight.dtype not in (torch.bfloat16, torch.float16), f"{weight.dtype} on a GPU"),
    )


def unsupported_layers(layers: "Sequence[Module]") -> str | None:
    """What is in a layer that the halves pass by."""
    for layer in layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            if not hasattr(norm, "variance_epsilon") or getattr(norm, "bias", None) is not None:
                return f"norm {type(norm).__name__}"
        if hasattr(layer.self_attn, "q_norm"):
            return "norms of q and k"
        for name in PROJECTIONS:
            projection = find_projection(layer, name)
            if projection is None:
                return f"no {name}"
            found = unsupported_projection(projection)
            if found is not None:
                return f"{name}: {found}"
    return None


def find_projection(layer: "Module", name: str) -> Any:  # noqa: ANN401 - a linear layer, or PEFT's on one
    """The projection of that name in a decoder layer; None if it has none."""
    return getattr(layer.self_attn if hasattr(layer.self_attn, name) else layer.mlp, name, None)


def unsupported_projection(projection: "Module") -> str | None:
    """What in a linear layer, or a PEFT layer on one, the groups do not compute."""
    base = getattr(projection, "base_layer", projection)
    state = getattr(base.weight, "quant_state", None)
    found = first_true(
        (type(base).__name__ not in ("Linear", "Linear4bit"), f"a {type(base).__name__}"),
        (
            state is not None and (state.quant_type != "nf4" or base.weight.dtype != torch.uint8),
            f"4-bit weights of another kind, in {base.weight.dtype}",
        ),
        (base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad), "trained base weights"),
    )
    if found is not None or projection is base:
        return found
    names = list(projection.active_adapters)
    if len(names) != 1 or projection.disable_adapters or projection.merged or names[0] not in projection.lora_A:
        return "no single active adapter"
    dropout = projection.lora_dropout[names[0]]
    return first_true(
        (bool(getattr(projection, "lora_variant", False)), "another kind of LoRA, as DoRA"),
        (projection.lora_B[names[0]].bias is not None, "a bias in the adapter"),
        (not isinstance(dropout, torch.nn.Identity) and getattr(dropout, "p", 1.0) != 0, "dropout"),
    )


def unsupported_parameters(model: "Module", base: "Module") -> str | None:
    """Trained parameters that the fused backward gives no gradient."""
    if not isinstance(base.lm_head, torch.nn.Linear) or base.lm_head.bias is not None:
        return "another kind of head"
    for name, value in model.named_parameters():
        known = "lora_A" in name or "lora_B" in name or "embed_tokens" in name
        if value.requires_grad and not known:
            return f"trained {name}"
    if base.lm_head.weight.requires_grad:
        return "a trained head"
    return None
