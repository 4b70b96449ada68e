"""The adapter's file and, where asked for, the base's: converted, written, proven, measured."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.contracts import base as base_files
from stages.contracts import merged as merged_files
from stages.contracts.gguf import BaseFile, LoraChecks, Origin
from stages.core.errors import StageError
from stages.core.files import sha256_file
from stages.gguf_export.adapter_file import rank, verify_lora, write_lora
from stages.gguf_export.check_plan import CheckPlan, tokenizer_metadata
from stages.gguf_export.convert import finish_conversion, outtype, start_conversion
from stages.gguf_export.file_checks import measure, verify_form, verify_tensors
from stages.gguf_export.folder_tensors import read_weights
from stages.gguf_export.provenance_keys import base_metadata, tuned_metadata, verify_metadata
from stages.gguf_export.reference import MergedReference
from stages.gguf_export.tensor_check import names_in_file, verify_conversion
from stages.llama_cpp.gguf_reader import open_gguf, read_architecture, read_hparams
from stages.llama_cpp.quantize import quantize
from stages.llama_cpp.runtime import Model
from stages.weights.folding import Update


@dataclass(frozen=True)
class BaseConversion:
    """data/base on its way to a GGUF file in scratch."""

    folder: Path
    path: Path
    kind: str
    process: subprocess.Popen[bytes]


def start_base(base: Path, merged: Path, work: Path, name: str) -> BaseConversion:
    """Start the conversion of the base, as the merged model with the base's weights: its tokenizer and settings are those of training.

    Args:
        base: data/base.
        merged: data/merged, whose embedding has as many rows.
        work: scratch.
        name: the model's.
    """
    folder = work / "base"
    folder.mkdir()
    own = {base_files.MERGED_MARKER, merged_files.CHECKS, base_files.INDEX}
    weight_files = [file for file in base.iterdir() if file.suffix == ".safetensors" or file.name == base_files.INDEX]
    others = [file for file in merged.iterdir() if file.suffix != ".safetensors" and file.name not in own]
    for file in [*weight_files, *others]:
        (folder / file.name).symlink_to(file.resolve())
    path, kind = work / "base.gguf", outtype(read_weights(folder))
    return BaseConversion(folder, path, kind, start_conversion(folder, path, kind, name))


def export_lora(
    conversion: BaseConversion,
    source: Path,
    files: Path,
    update: Update,
    kind: str,
    quantization: str | None,
    name: str,
    plan: CheckPlan,
    theirs: MergedReference,
    origin: Origin,
    threads: int,
) -> LoraChecks:
    """Write `NAME-lora-KIND.gguf`, and `NAME-base-QUANTIZATION.gguf` if asked for.

    Args:
        conversion: of the base.
        source: the merged model's GGUF file, unquantized.
        files: the folder to write to.
        update: what the adapter changes.
        kind: type of its matrices in the file.
        quantization: of the base's file; None: none is kept, and the adapter is measured over the conversion.
        name: the model's.
        plan: what it is held against.
        theirs: what the merged model says.
        origin: for the metadata.
        threads: of the runtime and the quantizer.

    Raises:
        StageError: base and adapter are not the merged model, or llama.cpp does not take them.
    """
    finish_conversion(conversion.process, conversion.path)
    reader = open_gguf(conversion.path)
    tensors = read_weights(conversion.folder)
    verify_conversion(reader, tensors)
    hparams = read_hparams(reader)
    path, says = files / f"{name}-lora-{kind}.gguf", tuned_metadata(origin, "lora")
    write_lora(
        path, update, names_in_file(read_architecture(reader), hparams.layers, tensors), hparams, kind, name, says
    )
    lora = open_gguf(path)
    verify_metadata(lora, says, path.name)
    verify_lora(lora, reader, open_gguf(source), len(update.low_rank), threads)
    base = conversion.path
    if quantization:
        base = files / f"{name}-base-{quantization}.gguf"
        base_says = {**tokenizer_metadata(plan), **base_metadata(origin)}
        quantize(conversion.path, base, quantization, base_says, threads)
        verify_tensors(base, conversion.path, base_says, plan, threads)
    with Model(base, plan.context, threads) as model:
        if quantization:
            verify_form(model, plan)
        first = plan.examples[0]
        alone = model.logits(first.ids, first.prediction_mask())
        model.apply_lora(path)
        if np.array_equal(alone, model.logits(first.ids, first.prediction_mask())):
            raise StageError(
                f"llama.cpp loads {path.name}, and nothing changes by it; report it with the versions of `retune doctor`"
            )
        quality = measure(model, plan, theirs)
    return {
        "file": path.name,
        "type": kind,
        "bytes": path.stat().st_size,
        "sha256": sha256_file(path),
        "rank": rank(update),
        "scaling": update.scaling,
        "matrices": len(update.low_rank),
        "over": BaseFile(
            file=base.name if quantization else None,
            quantization=quantization or conversion.kind,
            bytes=base.stat().st_size,
            sha256=sha256_file(base),
        ),
        "quality": quality,
    }
