r"""The name by which llama.cpp knows a tokenizer's splitting rule.

llama.cpp does not read the regular expression in tokenizer.json: it carries its own copies, each under a name, and a GGUF file
holds the name (`tokenizer.ggml.pre`). The converter finds it by hashing how a probe text is tokenized, so it knows the vocabularies
that somebody has listed there and no other. Here it is found by the rule itself, so any vocabulary will do. That the name is right
is proven later, by equal ids over texts (stages/gguf_export/tokenization_check.py).
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.core.errors import StageError

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
CONTRACTIONS_SPELLED = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA_3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + TAIL
QWEN_2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + TAIL
QWEN_35 = (
    CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK_WORDS = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT_4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}|{CASED_TAIL}"
)
TEKKEN = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}|{CASED_TAIL}"
GPT_2 = "<ByteLevel's own rule>"
"""tokenizers' `ByteLevel(use_regex=True)` splits by GPT-2's expression, which is built into it."""

CASED = ("Lu", "Ll", "Lt", "Mn", "Mc", "Me")


@dataclass(frozen=True)
class Rule:
    """One splitting rule that llama.cpp knows."""

    merged: str | None
    """llama.cpp's name for it where every word is built by merges."""
    whole_words: str | None
    """Its name for it where a word that is in the vocabulary is taken whole, past the merges (`ignore_merges`)."""
    apart: tuple[str, ...] = ()
    """Unicode's categories of letters and marks past ASCII that llama.cpp's copy of the rule takes in another way."""


RULES: dict[tuple[str, ...], Rule] = {
    (LLAMA_3,): Rule("smaug-bpe", "llama-bpe"),
    (QWEN_2,): Rule("qwen2", None),
    (QWEN_35,): Rule("qwen35", None),
    (GPT_2,): Rule("gpt-2", None),
    ("digits", GPT_2): Rule("smollm", None),
    (r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", DEEPSEEK_WORDS): Rule("deepseek-v3", None),
    (GPT_4O,): Rule("gpt-4o", "granite-embed-multi-97m", CASED),
    (TEKKEN,): Rule(None, "tekken", CASED),
}
"""What a tokenizer splits by, step after step -> llama.cpp's name.

The last two tell capitals from small letters. llama.cpp's copies of them do so for A-Z and a-z alone, and take any other letter for both;
only that of `granite-embed-multi-97m` takes marks (Hindi's vowel signs, say) for part of a word. Where a text has nothing of `apart`,
they split it as the tokenizer does; a test compares thousands."""


def read_apart(text: str, tokenizer: Mapping[str, Any]) -> bool:
    """Whether llama.cpp's copy of a tokenizer's rule may split a text in another way; `tokenizer` is what its tokenizer.json holds."""
    try:
        rule = RULES.get(split_steps(tokenizer.get("pre_tokenizer")))
    except StageError:
        return False  # no such rule, so no known difference
    kinds = rule.apart if rule else ()
    return bool(kinds) and any(unicodedata.category(letter) in kinds for letter in text if not letter.isascii())


def split_steps(pre_tokenizer: Mapping[str, Any] | None) -> tuple[str, ...]:
    """What the pre-tokenizer splits by, in order, in one spelling for rules that are the same.

    Raises StageError for a step that llama.cpp has no counterpart of.
    """
    if pre_tokenizer is None:
        return ()
    parts: Sequence[Mapping[str, Any]] = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    steps: list[str] = []
    for part in parts:
        kind = part["type"]
        if kind == "Split" and part.get("behavior") == "Isolated" and not part.get("invert"):
            pattern = part["pattern"]
            steps.append(one_spelling(pattern["Regex"]) if "Regex" in pattern else repr(pattern.get("String")))
        elif kind == "Digits" and part.get("individual_digits"):
            steps.append("digits")
        elif kind == "ByteLevel" and not part.get("add_prefix_space"):
            if part.get("use_regex", True):
                steps.append(GPT_2)
        else:
            raise StageError(
                f"the tokenizer's splitting step {kind} ({', '.join(f'{key}={value}' for key, value in sorted(part.items()) if key != 'type')}) "
                "has no counterpart in llama.cpp, so no GGUF file could tokenize like it. Take a base model with another tokenizer."
            )
    return tuple(steps)


def one_spelling(pattern: str) -> str:
    """The pattern with the contractions spelled with (?i:...), as Llama 3 spells them: some tokenizers list the letters instead."""
    return pattern.replace(CONTRACTIONS_SPELLED, CONTRACTIONS)
