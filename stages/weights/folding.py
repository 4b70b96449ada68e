"""What an adapter does to the base's tensors, read from its folder, and one tensor's rows with it folded in."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.contracts import adapter as adapter_files
from stages.core.errors import StageError
from stages.core.files import read_json
from stages.models.safetensors_header import StoredTensor, read_header
from stages.weights.shards import FLOATS, read_rows

if TYPE_CHECKING:
    import torch

PREFIX = "base_model.model."
"""What PEFT puts before a module's name in an adapter's file."""

ROWS_SUFFIX = ".token_adapter.trainable_tokens_delta"
MAGNITUDE_SUFFIX = ".lora_magnitude_vector"

AS_TOLD: dict[str, object] = {
    "peft_type": "LORA",
    "bias": "none",
    "fan_in_fan_out": False,
    "lora_bias": False,
    "layer_replication": None,
    "target_parameters": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "use_qalora": False,
    "use_bdlora": None,
    "alora_invocation_tokens": None,
    "arrow_config": None,
    "kasa_config": None,
    "monteclora_config": None,
}
"""What an adapter's config must say (or leave out) for `fold` to be all that it does."""

EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"

OWN_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")
"""Ways to begin a LoRA that change the base's weights as well."""


@dataclass(frozen=True)
class Update:
    """What an adapter does to the base's tensors, by the tensor's name."""

    scaling: float
    low_rank: "dict[str, tuple[torch.Tensor, torch.Tensor]]"
    """{weight: (A of shape r x in, B of shape out x r)}, fp32."""
    magnitudes: "dict[str, torch.Tensor]"
    """{weight: length of each row, fp32} where the adapter is a DoRA."""
    row_numbers: list[int]
    rows: "dict[str, torch.Tensor]"
    """{embedding or head: trained rows, fp32, in the order of `row_numbers`}."""
    whole: dict[str, StoredTensor]
    """{weight: what stands in its place}, from the adapter's file (PEFT's modules_to_save)."""
    embedding_rows: int

    @property
    def names(self) -> set[str]:
        """The tensors that change."""
        return self.low_rank.keys() | self.rows.keys() | self.whole.keys()


def read_update(adapter: Path, vocabulary: int) -> Update:
    """The adapter's update of a base with `vocabulary` rows, in fp32.

    Raises:
        StageError: a kind of adapter that cannot be folded, a part that is missing, or numbers that are not finite.
    """
    config: dict[str, Any] = read_json(adapter / adapter_files.CONFIG)
    check_kind(adapter / adapter_files.CONFIG, config)
    file = adapter / adapter_files.WEIGHTS
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in read_header(file).items()}
    check_finite(file, tensors)
    saved = tuple(config.get("modules_to_save") or ())
    whole = {name: tensors.pop(name) for name in list(tensors) if is_saved(name, saved)}
    values = {name: read_rows(tensor).float() for name, tensor in tensors.items()}
    rows = {
        f"{name.removesuffix(ROWS_SUFFIX)}.weight": values.pop(name) for name in tensors if name.endswith(ROWS_SUFFIX)
    }
    lengths = {
        f"{name.removesuffix(MAGNITUDE_SUFFIX)}.weight": values.pop(name)
        for name in tensors
        if name.endswith(MAGNITUDE_SUFFIX)
    }
    modules = sorted({name.rpartition(".lora_")[0] for name in values})
    try:
        low_rank = {
            f"{name}.weight": (values.pop(f"{name}.lora_A.weight"), values.pop(f"{name}.lora_B.weight"))
            for name in modules
        }
    except KeyError as error:
        raise StageError(f"{file}: {error.args[0]} is missing; train again") from error
    if values:
        raise StageError(f"{file}: {min(values)} is no part of a LoRA that can be merged here")
    if lengths.keys() != (low_rank.keys() if config.get("use_dora") else set()):
        raise StageError(f"{file} and its config do not agree on which weights are a DoRA's; train again")
    training: adapter_files.Training = read_json(adapter / adapter_files.TRAINING)
    missing = set(range(vocabulary, training["embedding_rows"])) - set(training["trained_rows"])
    if missing and not any(tensor.shape[0] == training["embedding_rows"] for tensor in whole.values()):
        raise StageError(
            f"{adapter}: {len(missing)} rows of the resized embedding are in neither base nor adapter; train again"
        )
    return Update(
        scaling=config["lora_alpha"] / (math.sqrt(config["r"]) if config["use_rslora"] else config["r"]),
        low_rank=low_rank,
        magnitudes=lengths,
        row_numbers=training["trained_rows"],
        rows=rows,
        whole=whole,
        embedding_rows=training["embedding_rows"],
    )


def check_kind(file: Path, config: Mapping[str, Any]) -> None:
    """Raise StageError for an adapter whose config asks for more than `fold` does."""
    for key, plain in AS_TOLD.items():
        found = config.get(key, plain)
        if found != plain and (found or plain):
            raise StageError(f"{file}: {key} is {found!r}; such an adapter cannot be merged here")
    begun = str(config.get("init_lora_weights", True))
    if begun.lower().startswith(OWN_BASE):
        raise StageError(
            f"{file}: init_lora_weights is {begun}, which changes the base too; convert it to a plain LoRA first"
        )


def is_saved(name: str, modules: tuple[str, ...]) -> bool:
    """Whether a tensor of the adapter belongs to one of `modules_to_save`, which are ends of module names, as PEFT takes them."""
    return name.rpartition(".")[0].endswith(modules) if modules else False


def check_finite(file: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Raise StageError if a number of the adapter is NaN or infinite."""
    import torch

    broken = sorted(name for name, tensor in tensors.items() if not bool(torch.isfinite(read_rows(tensor)).all()))
    if broken:
        raise StageError(f"{file}: {broken[0]} holds NaN or infinity ({len(broken)} tensors do); train again")


def check_shapes(update: Update, tensors: Mapping[str, StoredTensor]) -> None:
    """Raise StageError unless every part of the adapter fits a tensor of the base that can be calculated with."""
    foreign = "another model's adapter"
    for name in sorted(update.names):
        if name not in tensors:
            raise StageError(f"the adapter changes {name}, and the base has no such tensor: {foreign}")
        tensor = tensors[name]
        want: tuple[int, ...]
        if name in update.low_rank:
            down, up = update.low_rank[name]
            want = (up.shape[0], down.shape[1])
            fits = want == tensor.shape and down.shape[0] == up.shape[1]
            fits = fits and (name not in update.magnitudes or update.magnitudes[name].shape == want[:1])
        elif name in update.rows:
            want = (len(update.row_numbers), update.rows[name].shape[1])
            fits = want == (update.rows[name].shape[0], tensor.shape[-1])
        else:
            want = update.whole[name].shape
            fits = want[1:] == tensor.shape[1:] and want[0] in (tensor.shape[0], update.embedding_rows)
        if not fits:
            raise StageError(f"the adapter's {want} of {name} do not fit the base's {tensor.shape}: {foreign}")
        if tensor.dtype not in FLOATS:
            raise StageError(f"the base's {name} is quantized ({tensor.dtype}): merge into a base in 16 or 32 bit")


def tie_head(update: Update, config: Mapping[str, object], tensors: Mapping[str, StoredTensor]) -> None:
    """Where head and embedding are tied, let the head change as the embedding does, if the base's files hold it at all.

    Raises StageError if the adapter holds another head than embedding for a base whose files have one matrix for both.
    """
    import torch

    if not config.get("tie_word_embeddings"):
        return
    names = [name for name in update.rows.keys() | update.whole.keys() if name.endswith(EMBEDDING)]
    if HEAD not in tensors and HEAD in update.names:
        same = HEAD in update.whole and names and names[0] in update.whole
        if not same or not torch.equal(read_rows(update.whole[names[0]]), read_rows(update.whole.pop(HEAD))):
            raise StageError(f"the adapter changes {HEAD}, which is tied to the embedding: train without it")
    elif HEAD in tensors and names:
        if names[0] in update.rows:
            update.rows[HEAD] = update.rows[names[0]]
        else:
            update.whole[HEAD] = update.whole[names[0]]


def merged_shape(name: str, tensor: StoredTensor, update: Update) -> tuple[int, ...]:
    """The shape of a tensor once the adapter is folded in: embedding and head may have got rows."""
    if name in update.whole:
        return update.whole[name].shape
    return (update.embedding_rows, *tensor.shape[1:]) if name in update.rows else tensor.shape


def fold(name: str, weight: "torch.Tensor", first: int, update: Update) -> "torch.Tensor":
    """Rows of a weight, from row `first` on, with the adapter's part in them. May write into `weight`, which is fp32.

    LoRA: W + scaling * B @ A. DoRA: the same, each row then brought to the length that was trained. Trained rows stand in the
    place of the base's.
    """
    import torch

    last = first + weight.shape[0]
    if name in update.low_rank:
        down, up = update.low_rank[name]
        weight = torch.addmm(weight, up[first:last], down, alpha=update.scaling, out=weight)
        if name in update.magnitudes:
            weight *= (update.magnitudes[name][first:last] / torch.linalg.norm(weight, dim=1))[:, None]
    if name in update.rows:
        here = [number for number, row in enumerate(update.row_numbers) if first <= row < last]
        weight[[update.row_numbers[number] - first for number in here]] = update.rows[name][here]
    return weight
