"""Small tokenizers, one for each way in which model families tokenize; made in well under a second each."""

import json
import random
from collections.abc import Callable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tests.oracle.llama3 import PATTERN as LLAMA3
from tests.stages.gguf_export.support.tokenizers_in_small import WORDS, gpt_2, split_by, train

SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|eot_id|>")
ADDED = (
    AddedToken("<think>", normalized=False),
    AddedToken("</think>", normalized=False),
    AddedToken("<tool_call>", normalized=False, lstrip=True, rstrip=True),
)
ONLY_WORD = AddedToken("Word", normalized=False, single_word=True)
"""What gigatoken would find inside of words, too."""
ENDING = r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{SHORT}|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{SHORT}|{ENDING}"


def texts() -> list[str]:
    draw = random.Random(1)
    return [
        "".join(draw.choice(WORDS) + draw.choice([" ", " ", "  ", "\n", ""]) for _ in range(40)) for _ in range(400)
    ]


def llama_2() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fallbacks = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=["<unk>", *fallbacks], show_progress=False)
    tokenizer.train_from_iterator([word for text in texts() for word in text.split(" ")], trainer)
    value = json.loads(tokenizer.to_str())
    value["added_tokens"] = [token for token in value["added_tokens"] if token["content"] not in fallbacks]
    return Tokenizer.from_str(json.dumps(value))


def gemma() -> Tokenizer:
    tokenizer = llama_2()
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    return tokenizer


def mistral() -> Tokenizer:
    tokenizer = llama_2()
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=600, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(texts(), trainer)
    value = json.loads(tokenizer.to_str())
    value["model"]["vocab"] += [[f"<0x{byte:02X}>", -20.0] for byte in range(256)]
    value["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(value))


def qwen() -> Tokenizer:
    tokenizer = train(split_by(LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")))
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def bert() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=["[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer


def words(pattern: str) -> Tokenizer:
    """One token for each piece that a pattern splits off: what tells where it splits."""
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "llama-3": lambda: train(split_by(LLAMA3), ignore_merges=True),
    "gpt-4o": lambda: train(split_by(CASED)),
    "gpt-2": lambda: train(gpt_2()),
    "smollm": lambda: train(gpt_2(digits=True)),
    "qwen": qwen,
    "llama-2": llama_2,
    "gemma": gemma,
    "mistral": mistral,
    "unigram": unigram,
    "bert": bert,
}


def make(kind: str, *more: AddedToken) -> Tokenizer:
    """A tokenizer with special tokens, and with added ones that are not special."""
    tokenizer = KINDS[kind]()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    tokenizer.add_tokens([*ADDED, *more])
    return tokenizer
