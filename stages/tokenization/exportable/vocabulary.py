"""Whether a GGUF file can carry a tokenizer, asked of its folder alone: no model, no GGUF file and no llama.cpp is needed.

A file whose tokenizer is off loads and answers; it only splits text in another way than training did. So what llama.cpp cannot do is refused.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.core.errors import StageError
from stages.tokenization.exportable.pretokenizer import RULES, split_steps


def why_not_exportable(folder: Path) -> str | None:
    """Why no GGUF file could tokenize like the tokenizer in `folder`, and what to do; None where nothing there speaks against it.

    It is what `name_pretokenizer` refuses. Two things are not its to say: a vocabulary with scores (SentencePiece) has no splitting rule
    to be named, and llama.cpp's converter recognizes some vocabularies by their hash, whose rule need not be among RULES. So None is no
    promise (files are proven by equal ids), and a reason holds for every tokenizer that the converter does not recognize.
    """
    if has_scores(folder):
        return None
    try:
        name_pretokenizer(folder)
    except StageError as reason:
        return str(reason)
    return None


def has_scores(folder: Path) -> bool:
    """Whether llama.cpp's converter reads the vocabulary in `folder` as SentencePiece's, whose entries have scores and no splitting rule."""
    path = folder / "tokenizer.json"
    if (folder / "tokenizer.model").is_file() or not path.is_file():
        return (folder / "tokenizer.model").is_file()
    model = json.loads(path.read_text(encoding="utf-8"))["model"]
    return model["type"] != "BPE" or bool(model.get("byte_fallback"))


def name_pretokenizer(folder: Path) -> str:
    """llama.cpp's name for the splitting rule of the byte-level BPE tokenizer in `folder` (its tokenizer.json).

    Raises:
        StageError: no tokenizer.json there, or llama.cpp has no such rule, or would read its text, vocabulary or merges in another way.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise StageError(
            f"no tokenizer.json in {folder.name}: save the tokenizer in its fast form (transformers' save_pretrained)"
        )
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    refuse_normalizer(tokenizer.get("normalizer"))
    steps = split_steps(tokenizer.get("pre_tokenizer"))
    rule = RULES.get(steps)
    if rule is None:
        raise StageError(
            f"the tokenizer splits text by {' then '.join(map(repr, steps)) or 'no rule'}, which llama.cpp does not know, so no GGUF file "
            "could tokenize like it. Known rules: those of Llama 3, GPT-2, GPT-4o, Qwen 2, Qwen 3.5, DeepSeek V3, SmolLM and Tekken. "
            "Take a base model with one of these (or train the tokenizer with one), or set `gguf.quantizations` aside for this model."
        )
    model = tokenizer["model"]
    # Where the merges rebuild every entry of the vocabulary, both names give the same ids: take the better known one.
    whole_words = bool(model.get("ignore_merges"))
    indifferent = merges_reach_all(model)
    if rule.whole_words and (whole_words or indifferent):
        return rule.whole_words
    if rule.merged is None or (whole_words and not indifferent):
        raise StageError(
            "llama.cpp knows this tokenizer's splitting rule only with another setting of `ignore_merges`, and here that changes ids "
            "(some entries of the vocabulary cannot be built by its merges). Take a base model with another tokenizer."
        )
    return rule.merged


def merges_reach_all(model: Mapping[str, Any]) -> bool:
    """Whether the merges build every entry of a BPE vocabulary as one token, so that `ignore_merges` changes nothing."""
    from tokenizers import models

    vocabulary: dict[str, int] = model["vocab"]
    pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
    merges = [(str(left), str(right)) for left, right in pairs]
    bpe = models.BPE(vocab=vocabulary, merges=merges)
    return all(len(bpe.tokenize(entry)) == 1 for entry in vocabulary)


def refuse_normalizer(normalizer: Mapping[str, Any] | None) -> None:
    """Raise StageError where the text is rewritten before it is split: llama.cpp's BPE tokenizer would not do that."""
    if normalizer is None or normalizer["type"] == "NFC" or normalizer == {"type": "Sequence", "normalizers": []}:
        # llama.cpp leaves Qwen 2's NFC out, for every such model: text as it is typed is composed already.
        return
    raise StageError(
        f"the tokenizer rewrites text before it splits it (normalizer {normalizer['type']}), which llama.cpp does not do for byte-level BPE. "
        "Take a base model with another tokenizer."
    )
