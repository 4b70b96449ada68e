import json
import random
from pathlib import Path
from typing import Any

import pytest

from stages.gguf_export.tokenization_check import TEXTS
from stages.llama_cpp.runtime import Model
from stages.tokenization.exportable import pretokenizer as rules
from stages.tokenization.exportable.vocabulary import name_pretokenizer
from tests.stages.gguf_export.support.tokenizers_in_small import WORDS, gpt_2, split_by, train, write_vocabulary
from tests.stages.tokenization.support.tokenizer_kinds import CASED

DEEPSEEK = next(steps for steps in rules.RULES if len(steps) == 3)


def saved(tokenizer: Any, folder: Path) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize(
    ("splitter", "ignore_merges", "name"),
    [
        (lambda: split_by(rules.LLAMA_3), True, "llama-bpe"),
        (lambda: split_by(rules.LLAMA_3.replace(rules.CONTRACTIONS, rules.CONTRACTIONS_SPELLED)), False, "llama-bpe"),
        (lambda: split_by(rules.QWEN_2), False, "qwen2"),
        (lambda: split_by(rules.QWEN_35), False, "qwen35"),
        (lambda: split_by(*DEEPSEEK), False, "deepseek-v3"),
        (gpt_2, False, "gpt-2"),
        (lambda: gpt_2(digits=True), False, "smollm"),
    ],
)
def test_pretokenizer_of_a_known_rule_gives_llama_cpp_the_tokenizers_ids(
    tmp_path: Path, splitter: Any, ignore_merges: bool, name: str
) -> None:
    tokenizer = train(splitter(), ignore_merges=ignore_merges)
    assert name_pretokenizer(saved(tokenizer, tmp_path)) == name
    write_vocabulary(tmp_path / "vocabulary.gguf", tokenizer, name)
    with Model(tmp_path / "vocabulary.gguf", context=256, threads=1) as model:
        assert [
            text for text in TEXTS if model.tokenize(text) != tokenizer.encode(text, add_special_tokens=False).ids
        ] == []


def test_the_fixed_texts_tell_every_rule_from_every_other(tmp_path: Path) -> None:
    tokenizer = train(split_by(r"[\s\S]+"), size=1500)  # merges across every boundary, so that each boundary shows
    ids = {}
    for name in ("llama-bpe", "qwen2", "qwen35", "gpt-2", "smollm", "deepseek-v3", "gpt-4o", "tekken", "default"):
        write_vocabulary(tmp_path / "vocabulary.gguf", tokenizer, name)
        with Model(tmp_path / "vocabulary.gguf", context=256, threads=1) as model:
            ids[name] = json.dumps([model.tokenize(text) for text in TEXTS])
    assert len(set(ids.values())) == len(ids)


CASED_WORDS = (
    *WORDS,
    "Éa",
    "éA",
    "naïveX",
    "ไทย",
    "e\u0301",
    "XÉ",
    "İstanbul",
    "ǅ",
    "بِسْمِ",
    "'S",
    "I'LL",
    "a/b//",
    "\n/",
    "x/\n",
    "ªº",
    "ʰa",
)


def cased_texts(count: int) -> list[str]:
    draw = random.Random(3)
    return [
        "".join(draw.choice(CASED_WORDS) + draw.choice([" ", "", " ", "\n"]) for _ in range(8)) for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("rule", "ignore_merges", "name"),
    [
        (rules.GPT_4O, True, "granite-embed-multi-97m"),
        (rules.GPT_4O, None, "gpt-4o"),
        (CASED, True, "granite-embed-multi-97m"),
        (rules.TEKKEN, True, "tekken"),
        (rules.TEKKEN, False, "tekken"),
    ],
)
def test_rules_that_tell_capitals_from_small_letters_give_the_tokenizers_ids_on_all_text_that_is_not_named_apart(
    tmp_path: Path, rule: str, ignore_merges: bool | None, name: str
) -> None:
    tokenizer = train(split_by(rule), ignore_merges=bool(ignore_merges))
    if ignore_merges is None:  # an entry that no merge builds, so that llama.cpp's name for words taken whole is wrong
        value = json.loads(tokenizer.to_str())
        value["model"]["vocab"]["zzzzq"] = max(token["id"] for token in value["added_tokens"]) + 1
        tokenizer = type(tokenizer).from_str(json.dumps(value))
    own = json.loads(tokenizer.to_str())
    assert name_pretokenizer(saved(tokenizer, tmp_path)) == name
    write_vocabulary(tmp_path / "vocabulary.gguf", tokenizer, name)
    texts = [*TEXTS, *cased_texts(1500)]
    with Model(tmp_path / "vocabulary.gguf", context=256, threads=1) as model:
        different = [
            text for text in texts if model.tokenize(text) != tokenizer.encode(text, add_special_tokens=False).ids
        ]
    assert [text for text in different if not rules.read_apart(text, own)] == []
    # the difference is real, and not every such text has it
    assert 0 < len(different) < sum(rules.read_apart(text, own) for text in texts) / 2
    assert sum(not rules.read_apart(text, own) for text in texts) > 200


def test_rules_that_llama_cpp_copies_whole_are_read_apart_nowhere() -> None:
    own = json.loads(train(split_by(rules.LLAMA_3)).to_str())
    assert not any(rules.read_apart(text, own) for text in TEXTS)
