"""Every code point, through every kind of splitting and normalizing: the libraries agree on all that is not in NEWER."""

import json
import sys
from itertools import product

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from stages.tokenization.loading.fast import FastEncoder, ReferenceEncoder
from stages.tokenization.loading.fast_libraries import LIBRARIES
from tests.oracle.llama3 import PATTERN as LLAMA3
from tests.stages.gguf_export.support.tokenizers_in_small import gpt_2, split_by, train
from tests.stages.tokenization.support.tokenizer_kinds import CASED, gemma, llama_2, mistral, words

pytestmark = pytest.mark.slow

AROUND = [
    "a{}",
    "{}a",
    "A{}",
    "{}A",
    "1{}",
    "{}1",
    ".{}",
    "{}.",
    " {}a",
    "{}\n",
    "'{}",
    "'s{}",
    " {} {} ",
    "a{}\u0301",
    "xy{}xy",
]
TEXT = " \n\n ".join(AROUND)
AGREED_BLOCKS = [
    range(0x4E10, 0x9FE0),
    range(0xAC10, 0xD790),
    range(0x20010, 0x2A6D0),
    range(0x40000, 0xE0000),
    range(0xE0200, 0x110000),
]
"""Ideographs, syllables, and planes with nothing in them: a few of each are enough."""
CODE_POINTS = [
    code
    for code in range(sys.maxunicode + 1)
    if not 0xD800 <= code < 0xE000 and (code % 97 == 0 or not any(code in block for block in AGREED_BLOCKS))
]


def pieces(pre_tokenizer, *added):
    tokenizer = words(r"\s+")
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.add_tokens(list(added))
    return tokenizer


def normalized(normalizer):
    tokenizer = train(gpt_2())
    tokenizer.normalizer = normalizer
    return tokenizer


def bert():
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def pairs(pre_tokenizer, normalizer=None):
    """Byte-level BPE that merges any two bytes, the later ones first: what it makes of a text tells where it was split."""
    tokenizer = train(pre_tokenizer)
    value = json.loads(tokenizer.to_str())
    alphabet = sorted(token for token in value["model"]["vocab"] if len(token) == 1)
    merges = [[left, right] for left, right in product(reversed(alphabet), alphabet)]
    tokens = [*alphabet, *("".join(merge) for merge in merges)]
    value["model"] |= {"vocab": {token: index for index, token in enumerate(tokens)}, "merges": merges}
    value["added_tokens"] = []
    found = Tokenizer.from_str(json.dumps(value))
    if normalizer:
        found.normalizer = normalizer
    return found


SPLITTING = {
    "llama-3": lambda: words(LLAMA3),
    "qwen": lambda: words(LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")),
    "gpt-4o": lambda: words(CASED),
    "digits": lambda: pieces(pre_tokenizers.Digits(individual_digits=True)),
    "punctuation": lambda: pieces(pre_tokenizers.Punctuation()),
    "white space": lambda: pieces(pre_tokenizers.Whitespace()),
    "single word": lambda: pieces(pre_tokenizers.WhitespaceSplit(), AddedToken("xy", single_word=True, normalized=False)),
    "strip": lambda: pieces(pre_tokenizers.WhitespaceSplit(), AddedToken("xy", lstrip=True, rstrip=True, normalized=False)),
    "nfc": lambda: normalized(normalizers.NFC()),
    "nfd": lambda: normalized(normalizers.NFD()),
    "nfkc": lambda: normalized(normalizers.NFKC()),
    "nfkd": lambda: normalized(normalizers.NFKD()),
    "lower": lambda: normalized(normalizers.Lowercase()),
    "accents": lambda: normalized(normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])),
    "bert": bert,
}  # fmt: skip
MERGING = {
    "llama-3": lambda: pairs(split_by(LLAMA3)),
    "qwen": lambda: pairs(split_by(LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")), normalizers.NFC()),
    "gpt-4o": lambda: pairs(split_by(CASED)),
    "gpt-2": lambda: pairs(gpt_2()),
    "llama-2": llama_2,
    "gemma": gemma,
    "mistral": mistral,
}
"""Of gigatoken, which knows BPE alone."""
GIGATOKEN, TOKENIZERS = LIBRARIES


@pytest.mark.parametrize(
    ("library", "make"),
    [pytest.param(GIGATOKEN, make, id=f"gigatoken {case}") for case, make in MERGING.items()]
    + [pytest.param(TOKENIZERS, make, id=f"tokenizers {case}") for case, make in SPLITTING.items()],
)
def test_code_points_that_differ_are_all_left_to_the_reference(library, make):
    reference = ReferenceEncoder(make())
    fast = FastEncoder(library.load(reference.tokenizer.to_str().encode()), reference)
    known = fast.newer.copy()
    fast.newer[:] = False  # nothing is left to the reference, so that all differences show
    differing = set()
    for codes in cut(CODE_POINTS, 20_000):
        texts = [TEXT.replace("{}", chr(code)) for code in codes]
        (ids, lengths), (right, right_lengths) = fast.encode(texts), reference.encode(texts)
        if ids.tobytes() != right.tobytes() or lengths.tobytes() != right_lengths.tobytes():
            bounds, right_bounds = lengths.cumsum(), right_lengths.cumsum()
            differing |= {
                code
                for code, stop, size, right_stop, right_size in zip(
                    codes, bounds, lengths, right_bounds, right_lengths, strict=True
                )
                if ids[stop - size : stop].tobytes() != right[right_stop - right_size : right_stop].tobytes()
            }
    assert [f"{code:X}" for code in sorted(differing) if not known[code]] == []


def cut(items, size):
    return [items[start : start + size] for start in range(0, len(items), size)]
