"""Exports the merged model as GGUF files, and measures each against the merged model.

Reads   data/merged (a transformers folder), data/adapter (what it was made with), data/tokens (held-out rows; tokenizer/)
Writes  data/gguf: NAME-QUANT.gguf, checks.json, Modelfile (see stages/contracts/gguf.py)
Command python -m stages.gguf --merged data/merged --adapter data/adapter --tokens data/tokens --files data/gguf

A file that differs from the merged model in form (a tensor, the tokenization, the chat template, BOS, the end of a turn) fails
the stage. How much the rounding costs is measured; `audit` judges it.
"""

import logging
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from stages.contracts.gguf import CHECKS, MODELFILE, Checks, FileChecks
from stages.entry import Input, Output, run
from stages.errors import StageError
from stages.files import sha256_file, write_json, write_text
from stages.llama_cpp import tokenization
from stages.llama_cpp.convert import finish_conversion, outtype, start_conversion
from stages.llama_cpp.examples import Ending, Example, Question, find_ending, questions, read_examples
from stages.llama_cpp.mix import QUANTIZATIONS, Choice
from stages.llama_cpp.model import Model
from stages.llama_cpp.modelfile import Form, dialogue_form, modelfile
from stages.llama_cpp.quality import answers, count_exact, measure_divergence, perplexity, reference_loss, rounded
from stages.llama_cpp.quantize import Overrides, metadata, quantize
from stages.llama_cpp.reference import Reference, reference
from stages.llama_cpp.tensors import verify_conversion, verify_quantized
from stages.llama_cpp.weights import weights
from stages.params import Params, Runtime

log = logging.getLogger("retune")

FULL_PRECISION = "full.gguf"
CONTEXT_STEP = 256
"""llama.cpp's attention cache comes in pieces of this many tokens."""


class GgufParams(Params):
    """What to export, and on how much to measure it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """The model's name: the files' stem, and `general.name` in them."""
    quantizations: Annotated[list[str], Field(min_length=1)]
    """Files to write, of: f16 bf16 q8_0 q6_k q5_k_m q5_k_s q4_k_m q4_k_s iq4_nl q4_0 q3_k_m. The first stands in the Modelfile.
    A type whose blocks do not divide a tensor's rows falls back as llama.cpp's does (Q4_K to Q5_0, Q5_K to Q5_1, Q6_K to Q8_0,
    Q3_K to Q4_0, then F16); checks.json says which did."""
    check_rows: Annotated[int, Field(ge=1)]
    """Held-out rows that each file and the merged model are run on, on the CPU. Effect: the figures' precision, and minutes for a large model."""
    check_answers: Annotated[int, Field(ge=0)]
    """Greedy answers (the first assistant turns of those rows) compared with the merged model's and with the true ones."""

    @field_validator("quantizations")
    @classmethod
    def known_quantizations(cls, names: list[str]) -> list[str]:
        """Each of them known, none twice."""
        unknown = sorted(set(names) - QUANTIZATIONS.keys())
        if unknown:
            raise ValueError(f"unknown quantization {', '.join(unknown)}; known: {', '.join(QUANTIZATIONS)}")
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        if twice:
            raise ValueError(f"named twice: {', '.join(twice)}")
        return names


@dataclass(frozen=True)
class Plan:
    """What every file is held against."""

    tokenizer: Any
    split: str
    examples: list[Example]
    asked: list[Question]
    ending: Ending
    form: Form | None

    @property
    def ends(self) -> frozenset[int]:
        """Ids that end an answer."""
        own = {self.tokenizer.eos_token_id} if self.tokenizer.eos_token_id is not None else set()
        return frozenset(own | (set(self.ending.ids) if self.ending.is_control else set()))


def gguf(merged: Input, adapter: Input, tokens: Input, files: Output, params: GgufParams, runtime: Runtime) -> None:
    """Convert once, quantize and check for each name, and write what was found."""
    threads = runtime.workers or len(os.sched_getaffinity(0))
    tensors = weights(merged)
    plan = make_plan(tokens, params)
    work = files / ".work"
    work.mkdir(parents=True)
    refuse_full_disk(
        files, sum(file.stat().st_size for file in merged.glob("*.safetensors")), len(params.quantizations)
    )
    source = work / FULL_PRECISION
    # The converter is a process of its own: meanwhile the merged model gives its logits here.
    conversion = start_conversion(merged, source, outtype(tensors), params.name)
    try:
        theirs = reference(merged, tensors, plan.examples, plan.asked, plan.ends, threads, work)
    except BaseException:
        conversion.kill()
        raise
    finish_conversion(conversion, source)
    verify_source(source, tensors, plan.tokenizer)
    found: dict[str, FileChecks] = {}
    for quantization in params.quantizations:
        path = files / f"{params.name}-{quantization}.gguf"
        choices = quantize(source, path, quantization, tokenizer_metadata(plan), threads)
        found[path.name] = check_file(path, source, quantization, choices, plan, theirs, threads)
        quality = found[path.name]["quality"]
        log.info(
            "%s: %.1f MB, KL %.2g, top-1 agreement %.1f %%",
            path.name,
            path.stat().st_size / 1e6,
            quality["kl"],
            100 * quality["top_1_agreement"],
        )
    stop = [plan.tokenizer.decode(list(plan.ending.ids), skip_special_tokens=False)]
    text = modelfile(plan.form, list(found), stop)
    write_text(files / MODELFILE, text)
    write_json(files / CHECKS, summary(found, plan, theirs, adapter, stop, "TEMPLATE " in text))
    shutil.rmtree(work)


def make_plan(tokens: Path, params: GgufParams) -> Plan:
    """The rows, questions and tokenizer of data/tokens. Raises StageError where they contradict one another."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokens / "tokenizer", local_files_only=True, trust_remote_code=False)
    if not tokenizer.chat_template:
        raise StageError(
            f"{tokens.name}/tokenizer has no chat template; the stage template writes it there (template.chat_template)"
        )
    split, examples = read_examples(tokens, params.check_rows)
    begins = tokenization.begins(tokenizer)
    for example in examples:
        tokenization.refuse_two_begins(example.ids, tokenizer.bos_token_id, f"row {example.row_id} of {tokens.name}")
        if tokenizer.bos_token_id is not None and begins != (example.ids[0] == tokenizer.bos_token_id):
            raise StageError(
                f"row {example.row_id} {'lacks the' if begins else 'begins with a'} BOS that the chat template does {'' if begins else 'not '}write; run the stage template again"
            )
    form = dialogue_form(tokenization.renderer(tokenizer, None), tokenizer.bos_token or "")
    closing = tokenization.encode(tokenizer, form.answer[1]) if form else []
    ending = find_ending(examples, frozenset(tokenizer.added_tokens_decoder), closing)
    return Plan(tokenizer, split, examples, questions(examples, ending, params.check_answers), ending, form)


def refuse_full_disk(files: Path, merged_bytes: int, quantizations: int) -> None:
    """Raise StageError before the work where the files will not fit: the conversion, and at most as much again for each of them."""
    free, needed = shutil.disk_usage(files).free, merged_bytes * (1 + quantizations)
    if free < needed:
        raise StageError(
            f"{free / 1e9:.1f} GB are free here, and up to {needed / 1e9:.1f} GB are needed; make room, or ask for fewer `gguf.quantizations`"
        )


def verify_source(source: Path, tensors: dict[str, Any], tokenizer: Any) -> None:  # noqa: ANN401 - transformers' tokenizer
    """Raise StageError unless the converted file holds the merged model's tensors and data/tokens' vocabulary."""
    from gguf import GGUFReader

    reader = GGUFReader(source)
    verify_conversion(reader, tensors)
    tokenization.verify_vocabulary(reader, tokenizer)


def tokenizer_metadata(plan: Plan) -> Overrides:
    """What the file must say so that a runner feeds it as training did, whatever the converter guessed from the tokenizer's files."""
    says: dict[str, str | int | bool] = {"tokenizer.ggml.add_bos_token": tokenization.begins(plan.tokenizer)}
    if plan.ending.is_control and plan.ending.ids[0] != plan.tokenizer.eos_token_id:
        says["tokenizer.ggml.eot_token_id"] = plan.ending.ids[0]
    return says


def check_file(
    path: Path, source: Path, quantization: str, choices: dict[str, Choice], plan: Plan, theirs: Reference, threads: int
) -> FileChecks:
    """Everything that is known about one written file. Raises StageError for what no rounding explains."""
    from gguf import GGUFReader

    reader = GGUFReader(path)
    verify_quantized(reader, GGUFReader(source), threads)
    tokenization.verify_vocabulary(reader, plan.tokenizer)
    longest = max(
        *(len(example.ids) for example in plan.examples), *(len(asked.prompt) + asked.limit for asked in plan.asked), 1
    )
    with Model(path, context=-(-longest // CONTEXT_STEP) * CONTEXT_STEP, threads=threads) as model:
        rows = {
            example.row_id: plan.tokenizer.decode(example.ids, skip_special_tokens=True) for example in plan.examples
        }
        texts = tokenization.verify_texts(model, plan.tokenizer, rows)
        dialogues = tokenization.verify_template(model, plan.tokenizer)
        verify_ends(model, plan)
        divergence = measure_divergence(model, plan.examples, theirs)
        given = answers(model, plan.asked)
        return {
            "quantization": quantization,
            "bytes": path.stat().st_size,
            "sha256": sha256_file(path),
            "tensors": len(choices),
            "types": dict(Counter(choice.kind for choice in choices.values())),
            "fallbacks": {
                name: f"{choice.wanted} -> {choice.kind}"
                for name, choice in choices.items()
                if choice.kind != choice.wanted
            },
            "pre_tokenizer": metadata(reader, "tokenizer.ggml.pre"),
            "texts_equal": texts,
            "dialogues_equal": dialogues,
            "adds_bos": model.adds_bos,
            "quality": {
                "kl": rounded(divergence.kl / divergence.tokens),
                "top_1_agreement": rounded(divergence.same_top / divergence.tokens),
                "perplexity": perplexity(divergence.loss, divergence.tokens),
                "exact_match": share(count_exact(given, plan.asked, plan.ending, plan.ends), len(plan.asked)),
                "answers_equal": sum(ours == other for ours, other in zip(given, theirs.answers, strict=True)),
            },
        }


def verify_ends(model: Model, plan: Plan) -> None:
    """Raise StageError unless the file knows the tokenizer's EOS, stops at what ends an answer in the data, and not within one."""
    if plan.tokenizer.eos_token_id is not None and model.eos != plan.tokenizer.eos_token_id:
        raise StageError(
            f"{model.name} has the EOS token {model.eos}, data/tokens' tokenizer {plan.tokenizer.eos_token_id}; merge again with that tokenizer"
        )
    if plan.ending.is_control and not model.ends(plan.ending.ids[0]):
        raise StageError(
            f"{model.name} does not stop at token {plan.ending.ids[0]}, which ends every answer in data/tokens"
        )
    within = next((token for question in plan.asked for token in question.gold if model.ends(token)), None)
    if within is not None:
        raise StageError(f"{model.name} would stop at token {within}, which stands within answers of data/tokens")


def summary(
    found: dict[str, FileChecks], plan: Plan, theirs: Reference, adapter: Path, stop: list[str], template: bool
) -> Checks:
    """checks.json."""
    tokens = sum(len(example.targets()) for example in plan.examples)
    return {
        "files": found,
        "merged": {
            "perplexity": perplexity(reference_loss(plan.examples, theirs), tokens),
            "exact_match": share(count_exact(theirs.answers, plan.asked, plan.ending, plan.ends), len(plan.asked)),
        },
        "merged_dtype": theirs.dtype,
        "adapter_sha256": sha256_file(adapter / "adapter_model.safetensors"),
        "split": plan.split,
        "rows": [example.row_id for example in plan.examples],
        "tokens": tokens,
        "answers": len(plan.asked),
        "stop": stop,
        "stops_by": "token" if plan.ending.is_control else "text",
        "modelfile_template": template,
    }


def share(part: int, whole: int) -> float | None:
    """Part of the whole, 0 to 1; None of nothing."""
    return rounded(part / whole) if whole else None


if __name__ == "__main__":
    run(gguf)
