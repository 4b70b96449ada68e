"""Training that goes on from an adapter which is there already."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.contracts import adapter as contract
from stages.core.errors import StageError
from stages.core.files import read_json

if TYPE_CHECKING:
    from peft import PeftModel


def check_first(folder: Path, wanted: Mapping[str, Any], base: Mapping[str, str]) -> None:
    """Raise StageError unless the folder holds an adapter of this shape that was trained on this base.

    Args:
        folder: a PEFT folder with safetensors.
        wanted: `train.lora`.
        base: {file name: sha256} of the base. An adapter of other tools does not say its base; then only shapes are compared.
    """
    for name in (contract.CONFIG, contract.WEIGHTS):
        if not (folder / name).is_file():
            raise StageError(
                f"train.init_adapter is custom, but {folder / name} is missing: copy a PEFT adapter's folder there, or set it to none"
            )
    config = read_json(folder / contract.CONFIG)
    found = {
        "r": config.get("r"),
        "alpha": config.get("lora_alpha"),
        "bias": config.get("bias", "none"),
        "target_modules": sorted(config.get("target_modules") or []),
        "use_rslora": bool(config.get("use_rslora")),
        "use_dora": bool(config.get("use_dora")),
        "modules_to_save": sorted(config.get("modules_to_save") or []),
    }
    ours = {key: sorted(wanted[key]) if isinstance(wanted[key], list) else wanted[key] for key in found}
    other = [
        f"{key} is {found[key]!r} there and {ours[key]!r} in train.lora" for key in found if found[key] != ours[key]
    ]
    if other:
        raise StageError(f"{folder} is an adapter of another shape: {'; '.join(other)}")
    if (folder / contract.TRAINING).is_file() and read_json(folder / contract.TRAINING)["base"] != dict(base):
        raise StageError(
            f"{folder} was trained on another base than data/base: fetch that base, or set train.init_adapter to none"
        )


def put_first(model: "PeftModel", folder: Path) -> None:
    """Put the adapter's values in place of the fresh ones. Raises StageError unless they are exactly the model's trained ones."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    values = load_file(folder / contract.WEIGHTS)
    own = get_peft_model_state_dict(model, save_embedding_layers=False)
    shapes = {name: tuple(value.shape) for name, value in own.items()}
    if {name: tuple(value.shape) for name, value in values.items()} != shapes:
        differing = sorted(name for name in values.keys() | own.keys() if name not in values or name not in own)
        name = differing[0] if differing else "a shape"
        raise StageError(f"{folder / contract.WEIGHTS} does not fit the base and train.lora: {name} differs")
    set_peft_model_state_dict(model, values)
