"""What the fused training forward covers, as far as a base's config and the params tell, and its sizes that a memory estimate needs.

The one place for both: the forward (`fused.model`) and the estimate (`stages.training.memory.estimate`) read it. Without torch.
"""

from collections.abc import Mapping
from typing import Any

from stages.training.model_shape import ModelShape
from stages.training.params import LoraParams

MODEL_TYPES = ("llama", "mistral", "qwen2")
ROPE_KINDS = ("default", "llama3", "linear", "yarn")
"""Whose angles depend on the position alone, not on the length of the batch."""
GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
"""Projections that are one matrix product, in the order of a layer."""
PROJECTIONS = tuple(name for group in GROUPS for name in group)
AMPERE = 8.0
"""Compute capability from which on a GPU has the attention kernel."""
TILE = 64
"""Ranks of a group are padded to a multiple of this: the least width that Hopper's matrix kernels take without waste of their own."""


def pad_ranks(ranks: int, tile: int = TILE) -> int:
    """Columns that the adapters of a group take, whose ranks are together `ranks`."""
    return -(-ranks // tile) * tile


def why_not_sharded(*, load_in_4bit: bool, layout: str, not_fused: str | None) -> str | None:
    """Why `runtime.sharding: fsdp` is not for a training, and what to do; None if it is."""
    if load_in_4bit:
        return (
            "runtime.sharding: fsdp spreads a 16-bit base over the GPUs. In 4 bit (train.load_in_4bit) a base takes about a quarter of that and "
            "stays whole on each: set runtime.sharding to none, or train.load_in_4bit to false"
        )
    if layout == "padded":
        return "runtime.sharding: fsdp takes flat batches: set train.layout to flattened or packed"
    if not_fused is not None:
        return f"runtime.sharding: fsdp needs the fused forward, which does not take {not_fused}: set runtime.sharding to none"
    return None


def why_not_fused(
    config: Mapping[str, Any],
    shape: ModelShape,
    lora: LoraParams,
    *,
    layout: str,
    dtype: str,
    trained_rows: int = 0,
    capability: float | None = None,
) -> str | None:
    """Why the fused forward will not run a training, as far as config and params tell; None if it will.

    The loaded model is asked by `fused.support`.

    `capability` is the GPU's compute capability, as 8.6; None where it is not known.
    """
    text = config.get("text_config", config)
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    window = text.get("sliding_window") and text.get("use_sliding_window", shape.kind != "qwen2")
    reasons = {
        "layout padded": layout == "padded",
        f"model type {shape.kind}": shape.kind not in MODEL_TYPES or not set(PROJECTIONS) <= set(shape.first_layer),
        f"rotary embedding {kind}": kind not in ROPE_KINDS,
        "sliding-window attention": bool(window),
        "DoRA": lora.use_dora,
        "dropout": lora.dropout > 0,
        "modules that are trained whole": bool(set(lora.modules_to_save) - {"embed_tokens"}),
        "a trained head": trained_rows > 0 and not shape.tied,
        "32-bit arithmetic": dtype == "float32",
        "a GPU older than Ampere": capability is not None and capability < AMPERE,
    }
    return next((reason for reason, true in reasons.items() if true), None)
