"""Exports the merged model as GGUF files and the adapter as one more, and measures each against the merged model.

Reads  data/merged (a transformers folder), data/adapter (what it was made with), data/tokens (held-out rows; tokenizer/), data/base (for a
        base to lay the adapter over), the records of the stages before (what the files say of their origin)
Writes data/gguf: NAME-QUANT.gguf, NAME-lora-TYPE.gguf, imatrix.gguf, checks.json, Modelfile, README.md (see stages/contracts/gguf.py)

    python -m stages.gguf --merged data/merged --adapter data/adapter --tokens data/tokens --base data/base
        --fetch_model data/records/fetch_model.json ... --merge data/records/merge.json --files data/gguf

A file that differs from the merged model in form (a tensor, the tokenization, the chat template, BOS, the end of a turn) fails
the stage. How much the rounding costs is measured; `audit` judges it.
"""

import logging
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from stages.contracts.adapter import WEIGHTS
from stages.contracts.gguf import (
    CHECKS,
    MODELFILE,
    README,
    ExportChecks,
    FileChecks,
    ImatrixChecks,
    LoraChecks,
)
from stages.core.errors import StageError
from stages.core.files import write_json, write_text
from stages.core.params import Params, Runtime
from stages.core.runner import Input, Inputs, Output, run
from stages.gguf_export.adapter_export import export_lora, start_base
from stages.gguf_export.adapter_file import read_adapter
from stages.gguf_export.check_plan import CheckPlan, make_plan, tokenizer_metadata
from stages.gguf_export.convert import finish_conversion, outtype, start_conversion
from stages.gguf_export.file_checks import check_file, summarize, verify_source
from stages.gguf_export.folder_tensors import read_weights
from stages.gguf_export.imatrix import IMATRIX, compute_imatrix
from stages.gguf_export.modelfile import render_modelfile
from stages.gguf_export.observed_files import HeaderFacts, note_files, read_header_facts
from stages.gguf_export.provenance_keys import read_origin, tuned_metadata
from stages.gguf_export.quality import log_quality
from stages.gguf_export.readme import read_trained_context, render_readme
from stages.gguf_export.reference import run_merged_model
from stages.llama_cpp.programs import find_or_build
from stages.llama_cpp.quantization_names import OURS, find_problems
from stages.llama_cpp.quantize import quantize
from stages.models.base_model import device

log = logging.getLogger("retune")

FULL_PRECISION = "full.gguf"


class SamplingParams(Params):
    """How an answer is drawn in the commands of README.md and Modelfile. By these rules alone."""

    temperature: Annotated[float, Field(ge=0)]
    """Sharpens (under 1) or flattens (over 1) the probabilities; 0 takes the most likely token."""
    min_p: Annotated[float, Field(ge=0, le=1)]
    """Leaves out tokens less likely than this share of the most likely one's probability."""
    max_new_tokens: Annotated[int, Field(ge=1)]
    """Tokens of an answer, at most."""


class GgufParams(Params):
    """What to export, and on how much to measure it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """The model's name: the files' stem, and `general.name` in them."""
    license: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+-]*$")] | None
    """Licence of what is exported, as the hub names it (llama3.2); null: left out. It stands as `general.license` in the files, and in
    README.md. Most bases bind what is made of them to their own."""
    imatrix: Literal["none", "training_rows"]
    """An importance matrix, for finer rounding where it counts. That is where the inputs are strongest. training_rows: computed over the
    training rows' own tokens, layer by layer on `runtime.device`, and kept as imatrix.gguf. Effect: mostly better files below four bits;
    measure both (of the demo's files, q3_k_l gained and q4_k_m lost), checks.json says."""
    imatrix_tokens: Annotated[int, Field(ge=1)]
    """Training tokens that the importance matrix is computed over. Whole rows drawn by the hash of their ids; as many as there are, if
    fewer. Effect: time, that of one forward pass over them in fp32 (32,768 tokens of a 3B model: 2e14 operations, minutes on a CPU, seconds
    on a GPU)."""
    quantizations: Annotated[list[str], Field(min_length=1)]
    """Files to write; the first stands in the Modelfile. f32 f16 bf16 q8_0 q6_k q5_k_m q5_k_s q4_k_m q4_k_s iq4_nl q4_0 q3_k_m are made
    without a compiler. llama-quantize makes q5_1 q5_0 q4_1 iq4_xs q3_k_l q3_k_s iq3_m iq3_s q2_k q2_0 q1_0 tq2_0 tq1_0 mxfp4_moe, and with
    an importance matrix alone iq3_xs iq3_xxs q2_k_s iq2_m iq2_s iq2_xs iq2_xxs iq1_m iq1_s: it is found (LLAMA_CPP_DIR, PATH) or built once
    from the pinned sources, which takes cmake, a C++ compiler and four CPU minutes. The same goes for mixes of models with experts.
    A type whose blocks do not divide a tensor's rows falls back as llama.cpp's does (Q4_K to Q5_0, Q5_K to Q5_1, Q6_K to Q8_0,
    Q3_K to Q4_0, then F16); checks.json says which did."""
    check_rows: Annotated[int, Field(ge=1)]
    """Held-out rows that each file and the merged model are run on, on the CPU. Effect: the figures' precision, and minutes for a large model."""
    check_answers: Annotated[int, Field(ge=0)]
    """Greedy answers compared with the merged model's and with the true ones. To the first assistant turns of those rows."""
    lora: Literal["none", "f16", "f32"]
    """A file of the adapter alone, its matrices of this type. NAME-lora-TYPE.gguf, which llama.cpp lays over a base; none: no such file.
    f16 is 2 bytes for each trained value (49 MB for rank 16 of a 3B model). Where a GGUF adapter cannot hold what was trained (DoRA,
    modules trained whole, added tokens), it is left out, and checks.json says why. Effect: data/base is converted, too."""
    lora_base: str | None
    """Quantization of a file of the base, to lay the adapter over; null: none. NAME-base-QUANT.gguf (a quantization that needs no
    llama-quantize); it stays the same file when one trains again. With null the adapter is measured over the unquantized base."""
    sampling: SamplingParams

    @field_validator("quantizations")
    @classmethod
    def check_quantizations(cls, names: list[str], others: ValidationInfo) -> list[str]:
        """Each of them known, none twice, with an importance matrix where one is needed."""
        found = find_problems(names, imatrix=others.data.get("imatrix") != "none")
        if found:
            raise ValueError("; ".join(found))
        return names

    @field_validator("lora_base")
    @classmethod
    def check_base(cls, name: str | None) -> str | None:
        """A quantization that needs neither llama-quantize nor an importance matrix, or none."""
        if name is not None and name not in OURS:
            raise ValueError(f"unknown quantization {name} for a base; known: {', '.join(OURS)}")
        return name

    @model_validator(mode="after")
    def check_lora(self) -> Self:
        """A base is written for an adapter."""
        if self.lora == "none" and self.lora_base is not None:
            raise ValueError("lora_base must be null where lora is none (`--set gguf.lora_base=null`)")
        return self


def gguf(
    merged: Input,
    adapter: Input,
    tokens: Input,
    base: Input,
    records: Inputs,
    files: Output,
    params: GgufParams,
    runtime: Runtime,
) -> None:
    """Convert once, quantize and check for each name, do the adapter, and write what was found and how to run it."""
    threads = runtime.workers or len(os.sched_getaffinity(0))
    origin = read_origin(records.values(), adapter / WEIGHTS, params.license)
    tensors = read_weights(merged)
    plan = make_plan(tokens, params.check_rows, params.check_answers)
    if not OURS.keys() >= set(params.quantizations):
        find_or_build("llama-quantize")  # before the work: it may have to be built
    update, left_out = (None, None) if params.lora == "none" else read_adapter(adapter, merged)
    work = files / ".work"
    work.mkdir(parents=True)
    refuse_full_disk(files, sum(file.stat().st_size for file in merged.glob("*.safetensors")), params)
    source = work / FULL_PRECISION
    # The converters are processes of their own: meanwhile the merged model gives its logits here. However this ends, so do they.
    with ExitStack() as running:
        conversion = start_conversion(merged, source, outtype(tensors), params.name)
        running.callback(conversion.kill)
        base_conversion = None
        if update:
            base_conversion = start_base(base, merged, work, f"{params.name}-base")
            running.callback(base_conversion.process.kill)
        theirs = run_merged_model(merged, tensors, plan.examples, plan.asked, plan.ends, threads, work)
        finish_conversion(conversion, source)
        verify_source(source, tensors, plan.tokenizer)
        says = {**tokenizer_metadata(plan), **tuned_metadata(origin, "model")}
        weighted: ImatrixChecks | None = None
        if params.imatrix == "training_rows":
            target, limit = files / IMATRIX, params.imatrix_tokens
            weighted = compute_imatrix(
                merged, tokens, source, target, limit, device(runtime), tuned_metadata(origin, "imatrix")
            )
        found: dict[str, FileChecks] = {}
        heads: list[HeaderFacts | None] = []
        for quantization in params.quantizations:
            path = files / f"{params.name}-{quantization}.gguf"
            types = quantize(source, path, quantization, says, threads, files / IMATRIX if weighted else None)
            found[path.name] = check_file(path, source, quantization, types, says, plan, theirs, threads)
            heads.append(read_header_facts(path))
            log_quality(path, found[path.name]["quality"])
        lora: LoraChecks | None = None
        if update and base_conversion:
            lora = export_lora(
                base_conversion,
                source,
                files,
                update,
                params.lora,
                params.lora_base,
                params.name,
                plan,
                theirs,
                origin,
                threads,
            )
            log_quality(files / lora["file"], lora["quality"])
            if lora["over"]["file"]:
                log.info(
                    "%s: %.1f MB, the base alone, to lay it over", lora["over"]["file"], lora["over"]["bytes"] / 1e6
                )
        elif left_out:
            log.warning("no GGUF file of the adapter alone: %s", left_out)
    checks = summarize(found, weighted, lora, left_out, plan, theirs, origin)
    write_pages(files, checks, sorted(records), plan, params, read_trained_context(source))
    note_files(files, heads, checks, threads)
    shutil.rmtree(work)


def write_pages(
    files: Path, checks: ExportChecks, stages: Sequence[str], plan: CheckPlan, params: GgufParams, context: int | None
) -> None:
    """checks.json, Modelfile, README.md."""
    sampling = params.sampling
    parameters = {
        "temperature": sampling.temperature,
        "min_p": sampling.min_p,
        "num_predict": sampling.max_new_tokens,
        # rules that Ollama would add by itself
        "top_k": 0,
        "top_p": 1.0,
    }
    write_text(files / MODELFILE, render_modelfile(plan.form, list(checks["files"]), plan.stop, parameters))
    write_text(files / README, render_readme(params.name, checks, stages, sampling.model_dump(), context))
    write_json(files / CHECKS, checks)


def refuse_full_disk(files: Path, merged_bytes: int, params: GgufParams) -> None:
    """Raise StageError before the work where the files will not fit: the conversions, and at most as much again for each of them."""
    models = 1 + len(params.quantizations) + (params.lora != "none") + (params.lora_base is not None)
    free, needed = shutil.disk_usage(files).free, merged_bytes * models
    if free < needed:
        raise StageError(
            f"{free / 1e9:.1f} GB are free here, and up to {needed / 1e9:.1f} GB are needed; make room, or ask for fewer `gguf.quantizations`"
        )


if __name__ == "__main__":
    run(gguf, runtime_keys=("workers", "device"))
