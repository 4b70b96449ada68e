"""What is found about a written GGUF file: its form, which must be right, and its figures, which `audit` judges."""

from collections import Counter
from pathlib import Path
from typing import Any

from stages.contracts.gguf import ExportChecks, FileChecks, FileQuality, ImatrixChecks, LoraChecks, Origin
from stages.core.errors import StageError
from stages.core.files import sha256_file
from stages.gguf_export import tokenization_check as tokenization
from stages.gguf_export.check_plan import CheckPlan
from stages.gguf_export.modelfile import go_template
from stages.gguf_export.provenance_keys import verify_metadata
from stages.gguf_export.quality import (
    answer_questions,
    count_exact,
    mean_error,
    measure_divergence,
    perplexity,
    reference_loss,
    round_figure,
)
from stages.gguf_export.reference import MergedReference
from stages.gguf_export.tensor_check import verify_conversion, verify_quantized
from stages.llama_cpp.gguf_reader import open_gguf, read_metadata
from stages.llama_cpp.quantize import Overrides, name_quantizer
from stages.llama_cpp.runtime import Model
from stages.llama_cpp.tensor_types import TensorType


def verify_source(source: Path, tensors: dict[str, Any], tokenizer: Any) -> None:  # noqa: ANN401 - transformers' tokenizer
    """Raise StageError unless the converted file holds the merged model's tensors and data/tokens' vocabulary."""
    reader = open_gguf(source)
    verify_conversion(reader, tensors)
    tokenization.verify_vocabulary(reader, tokenizer)


def check_file(
    path: Path,
    source: Path,
    quantization: str,
    types: dict[str, TensorType],
    says: Overrides,
    plan: CheckPlan,
    theirs: MergedReference,
    threads: int,
) -> FileChecks:
    """Everything that is known about one quantized file. Raises StageError for what no rounding explains."""
    verify_tensors(path, source, says, plan, threads)
    reader = open_gguf(path)
    with Model(path, plan.context, threads) as model:
        texts, dialogues = verify_form(model, plan)
        return {
            "quantization": quantization,
            "quantizer": name_quantizer(quantization, source),
            "imatrix": read_metadata(reader, "quantize.imatrix.file") is not None,
            "bytes": path.stat().st_size,
            "sha256": sha256_file(path),
            "tensors": len(types),
            "types": dict(Counter(chosen.kind for chosen in types.values())),
            "fallbacks": {
                name: f"{chosen.wanted} -> {chosen.kind}"
                for name, chosen in types.items()
                if chosen.kind != chosen.wanted
            },
            "pre_tokenizer": read_metadata(reader, "tokenizer.ggml.pre"),
            "texts_equal": texts,
            "dialogues_equal": dialogues,
            "adds_bos": model.adds_bos,
            "quality": measure(model, plan, theirs),
        }


def verify_tensors(path: Path, source: Path, says: Overrides, plan: CheckPlan, threads: int) -> None:
    """Raise StageError unless a file holds the unquantized one's tensors, the tokenizer's vocabulary, and says what it shall."""
    reader = open_gguf(path)
    verify_metadata(reader, says, path.name)
    verify_quantized(reader, open_gguf(source), threads)
    tokenization.verify_vocabulary(reader, plan.tokenizer)


def verify_form(model: Model, plan: CheckPlan) -> tuple[int, int]:
    """How many texts and dialogues were compared with the tokenizer's reading of them.

    Raises StageError where one differs, or the file does not end where the data's answers end.
    """
    rows = {example.row_id: plan.tokenizer.decode(example.ids, skip_special_tokens=True) for example in plan.examples}
    texts = tokenization.verify_texts(model, plan.tokenizer, rows)
    dialogues = tokenization.verify_template(model, plan.tokenizer)
    verify_ends(model, plan)
    return texts, dialogues


def verify_ends(model: Model, plan: CheckPlan) -> None:
    """Raise StageError unless the file knows the tokenizer's EOS, stops at what ends an answer in the data, and not within one."""
    if plan.tokenizer.eos_token_id is not None and model.eos != plan.tokenizer.eos_token_id:
        raise StageError(
            f"{model.name} has the EOS token {model.eos}, data/tokens' tokenizer {plan.tokenizer.eos_token_id}; merge again with that tokenizer"
        )
    for token in sorted(plan.ending.controls):
        if not model.ends(token):
            raise StageError(f"{model.name} does not stop at token {token}, which ends answers in data/tokens")
    within = next((token for question in plan.asked for token in question.gold if model.ends(token)), None)
    if within is not None:
        raise StageError(f"{model.name} would stop at token {within}, which stands within answers of data/tokens")


def measure(model: Model, plan: CheckPlan, theirs: MergedReference) -> FileQuality:
    """An open file's figures against the merged model."""
    divergence = measure_divergence(model, plan.examples, theirs)
    given = answer_questions(model, plan.asked)
    return {
        "kl": round_figure(divergence.kl / divergence.tokens),
        "kl_error": mean_error(divergence.rows),
        "top_1_agreement": round_figure(divergence.same_top / divergence.tokens),
        "perplexity": perplexity(divergence.loss, divergence.tokens),
        "exact_match": share(count_exact(given, plan.asked, plan.ending, plan.ends), len(plan.asked)),
        "answers_equal": sum(ours == other for ours, other in zip(given, theirs.answers, strict=True)),
    }


def summarize(
    found: dict[str, FileChecks],
    imatrix: ImatrixChecks | None,
    lora: LoraChecks | None,
    left_out: str | None,
    plan: CheckPlan,
    theirs: MergedReference,
    origin: Origin,
) -> ExportChecks:
    """checks.json."""
    tokens = sum(len(example.targets()) for example in plan.examples)
    return {
        "files": found,
        "imatrix": imatrix,
        "lora": lora,
        "lora_left_out": left_out,
        "origin": origin,
        "merged": {
            "perplexity": perplexity(reference_loss(plan.examples, theirs), tokens),
            "exact_match": share(count_exact(theirs.answers, plan.asked, plan.ending, plan.ends), len(plan.asked)),
        },
        "merged_dtype": theirs.dtype,
        "split": plan.split,
        "rows": [example.row_id for example in plan.examples],
        "tokens": tokens,
        "answers": len(plan.asked),
        "stop": plan.stop,
        "stops_by": "token" if plan.ending.controls else "text",
        "modelfile_template": plan.form is not None and go_template(plan.form) is not None,
    }


def share(part: int, whole: int) -> float | None:
    """Part of the whole, 0 to 1; None of nothing."""
    return round_figure(part / whole) if whole else None
