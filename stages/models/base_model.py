"""What train, evaluate and merge share about a base model: its process, its dtype, its NF4 or 16-bit form, its embedding's size."""

import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from stages.contracts import base as base_files
from stages.contracts import tokens as token_files
from stages.core.errors import StageError
from stages.core.files import REMEDY, read_json, read_json_as, read_json_object, scratch, sha256_file, show_path
from stages.core.params import Runtime
from stages.models.safetensors_header import read_header

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

log = logging.getLogger("retune")

Dtype = Literal["auto", "bfloat16", "float16", "float32"]

ONE_THREAD_BELOW = 50_000_000
"""Parameters under which one thread is the better choice. Measured on 2 cores, NF4 LoRA step, seconds with 1 and 2 threads:
3.4 M parameters 0.28 / 0.21 on idle cores, 0.52 / 0.76 beside other work (a 19-fold loss was seen once: OpenMP's threads
spin while they wait for a core); 28 M 2.2 / 3.1 beside other work; 90 M 3.6 / 2.1. One thread also adds in one order."""


def prepare_process(base: Path, runtime: Runtime) -> None:
    """Set what torch, the tokenizers and Unsloth read from the environment. Must come before the first import of torch.

    Raises StageError where `runtime.device` asks for a GPU and none is there (seen at the first use of `device`).
    """
    os.environ.update(
        HF_HUB_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        DO_NOT_TRACK="1",
        UNSLOTH_DISABLE_STATISTICS="1",
        TOKENIZERS_PARALLELISM="false",
        # executable code that Unsloth writes: never into the working folder
        UNSLOTH_COMPILE_LOCATION=str(scratch() / "unsloth_compiled"),
    )
    if runtime.device == "cpu":
        os.environ.update(CUDA_VISIBLE_DEVICES="", UNSLOTH_FORCE_CPU="1")
    if parameter_count(base) < ONE_THREAD_BELOW:
        os.environ["OMP_NUM_THREADS"] = "1"


def device(runtime: Runtime) -> Literal["cuda", "cpu"]:
    """Where the model runs. Raises StageError if a GPU is asked for and torch sees none."""
    import torch

    if runtime.device == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if runtime.device == "cuda":
        raise StageError(
            "runtime.device is cuda, but torch sees no GPU here. Set it to auto or cpu, or see `retune doctor`."
        )
    return "cpu"


def torch_dtype(name: str) -> "torch.dtype":
    """The torch dtype of a resolved dtype name (not `auto`)."""
    import torch

    dtypes: dict[str, torch.dtype] = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    return dtypes[name]


def weight_files(base: Path) -> list[Path]:
    """The model's safetensors files in the order of their names. Raises StageError if there is none."""
    files = sorted(base.glob("*.safetensors"))
    if not files:
        raise StageError(f"{base} holds no .safetensors file; `dvc repro fetch_model` brings the base model")
    return files


ROPE = ("rope_parameters", "rope_scaling")
"""Where a config says how positions are turned."""


class AddedTokens(BaseModel):
    """Of the tokens' summary: {token: id} of what was added."""

    added: dict[str, int]


class Vocabulary(BaseModel):
    """What of the tokens' summary the embedding hangs on."""

    vocabulary_size: int
    control_tokens: AddedTokens


def parameter_count(base: Path) -> int:
    """Weights in the model's files."""
    return sum(math.prod(tensor.shape) for file in weight_files(base) for tensor in read_header(file).values())


def base_digests(base: Path) -> dict[str, str]:
    """{file name: sha256} of config and weights: from the source record that `fetch_model` wrote, else from the bytes."""
    names = [base_files.CONFIG, *(file.name for file in weight_files(base))]
    source = base / base_files.SOURCE
    known: dict[str, str] = read_json(source).get("files", {}) if source.exists() else {}
    return {name: known.get(f"base/{name}") or sha256_file(base / name) for name in names}


def read_config(base: Path) -> dict[str, object]:
    """config.json of a model folder. Raises StageError if it is missing or damaged."""
    path = base / base_files.CONFIG
    if not path.exists():
        raise StageError(
            f"{path} is missing: the base is no complete transformers folder; `dvc repro fetch_model` brings it"
        )
    config: dict[str, object] = read_json_object(path)
    text = config.get("text_config", config)
    turned = {name: text.get(name) for name in ROPE} if isinstance(text, dict) else {}
    wrong = [name for name, value in turned.items() if not isinstance(value, dict | None)]
    wrong += [] if isinstance(text, dict) else ["text_config"]
    if wrong:
        raise StageError(f"{show_path(path)} is damaged: `{wrong[0]}` is no mapping; {REMEDY}")
    return config


def base_rows(base: Path) -> int:
    """Rows of the base's own embedding. Raises StageError if its config does not say."""
    vocabulary = read_config(base).get("vocab_size")
    if not isinstance(vocabulary, int):
        raise StageError(f"{base / base_files.CONFIG} names no vocab_size")
    return vocabulary


def embedding_plan(base: Path, tokens: Path) -> tuple[int, list[int]]:
    """(rows the embedding must have, rows to train), from the base's config and the tokens' summary.

    Trained are the added tokens and every row that the base's embedding does not have yet: so a merge never has to
    invent a row. Both are the base's own size and nothing where the tokenizer fits it.
    """
    vocabulary = base_rows(base)
    summary = read_json_as(tokens / token_files.SUMMARY, Vocabulary)
    rows = max(vocabulary, summary.vocabulary_size)
    added = summary.control_tokens.added
    return rows, sorted(set(added.values()) | set(range(vocabulary, rows)))


def resize_embedding(model: "PreTrainedModel", old: int, rows: int) -> None:
    """Give the embedding and the output head `rows` rows; a row past the base's `old` is the mean of those, the same on every run.

    Each layer is looked at by itself, and new rows are written even if they are there: on a GPU Unsloth has by then resized the
    embedding to its tokenizer, leaving what was in memory in the new rows, and an untied head as it was.
    """
    import torch

    if rows <= old:
        return
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    means = [layer.weight.data[:old].float().mean(0) for layer in layers]
    if any(layer.weight.shape[0] < rows for layer in layers):
        model.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        for layer, mean in zip((model.get_input_embeddings(), model.get_output_embeddings()), means, strict=True):
            layer.weight[old:] = mean.to(layer.weight)


def load_base(base: Path, *, load_in_4bit: bool, dtype: str, place: str, rows: int) -> "PreTrainedModel":
    """The base through plain transformers, in NF4 with double quantization (as Unsloth loads it) or in `dtype`, for inference.

    Args:
        base: a transformers folder with safetensors.
        load_in_4bit: quantize the linear layers to NF4 while loading.
        dtype: a resolved dtype name: of the weights, and of the arithmetic in 4 bit.
        place: cuda or cpu.
        rows: rows that the embedding shall have.
    """
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    quantization = None
    if load_in_4bit:
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch_dtype(dtype),
        )
    model = AutoModelForCausalLM.from_pretrained(
        base,
        dtype=torch_dtype(dtype),
        device_map=place,
        quantization_config=quantization,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    keep_bits(model)
    resize_embedding(model, model.config.vocab_size, rows)
    model.eval()
    return model


def keep_bits(model: "PreTrainedModel") -> None:
    """Keep bitsandbytes from repacking NF4 weights for AVX512-BF16: it rounds activations to bf16, on some processors only."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def check_not_merged(base: Path, adapter_sha256: str) -> None:
    """Raises StageError if `base` is a folder into which this adapter was merged already."""
    marker = base / base_files.MERGED_MARKER
    if marker.exists() and read_json(marker).get("adapter") == adapter_sha256:
        raise StageError(
            f"{base} is already merged with this adapter: merging twice would add it twice. Point fetch_model to the original base."
        )


def batches(lengths: list[int], size: int) -> Iterator[list[int]]:
    """Row numbers in batches of `size`, longest first, so that rows of one batch need little padding (and memory fails early)."""
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    for start in range(0, len(order), size):
        yield order[start : start + size]
