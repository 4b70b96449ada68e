import json
from pathlib import Path
from typing import Any

import pytest

from stages.core.errors import StageError
from stages.tokenization.exportable import pretokenizer as rules
from stages.tokenization.exportable.vocabulary import name_pretokenizer, why_not_exportable
from tests.stages.gguf_export.support.tokenizers_in_small import gpt_2, split_by, train


def saved(tokenizer: Any, folder: Path) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_pretokenizer_where_merges_do_not_reach_a_word_minds_ignore_merges(tmp_path: Path) -> None:
    tokenizer = json.loads(train(split_by(rules.LLAMA_3)).to_str())
    tokenizer["model"]["vocab"]["zzzzq"] = max(tokenizer["model"]["vocab"].values()) + 1
    for ignore_merges, name in ((True, "llama-bpe"), (False, "smaug-bpe")):
        tokenizer["model"]["ignore_merges"] = ignore_merges
        (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
        assert name_pretokenizer(tmp_path) == name


def test_pretokenizer_of_an_unknown_rule_fails_with_the_rule_and_what_to_do(tmp_path: Path) -> None:
    saved(train(split_by(r"\p{L}+|\p{N}+|.")), tmp_path)
    with pytest.raises(StageError, match=r"\\\\p\{L\}\+\|.*does not know.*Take a base model"):
        name_pretokenizer(tmp_path)


def test_pretokenizer_refuses_what_rewrites_text(tmp_path: Path) -> None:
    from tokenizers import normalizers

    tokenizer = train(gpt_2())
    tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(StageError, match="normalizer Lowercase"):
        name_pretokenizer(saved(tokenizer, tmp_path))


def test_pretokenizer_without_tokenizer_json_says_so(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"no tokenizer\.json"):
        name_pretokenizer(tmp_path)


@pytest.mark.parametrize("splitter", [lambda: split_by(rules.LLAMA_3), gpt_2])
def test_tokenizer_that_a_gguf_file_can_carry_has_no_reason_against_it(tmp_path: Path, splitter: Any) -> None:
    assert why_not_exportable(saved(train(splitter()), tmp_path)) is None


def test_reason_against_a_tokenizer_is_what_naming_its_rule_refuses(tmp_path: Path) -> None:
    saved(train(split_by(r"\p{L}+|\p{N}+|.")), tmp_path)
    with pytest.raises(StageError) as refused:
        name_pretokenizer(tmp_path)
    assert why_not_exportable(tmp_path) == str(refused.value)


def test_vocabulary_with_scores_has_no_rule_to_be_named(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, normalizers

    whole = Tokenizer(models.BPE({"<0x41>": 0, "a": 1}, [], byte_fallback=True))
    whole.normalizer = normalizers.Prepend("\u2581")
    assert why_not_exportable(saved(whole, tmp_path)) is None
    with pytest.raises(StageError, match="normalizer"):
        name_pretokenizer(tmp_path)
    saved(Tokenizer(models.Unigram([("a", 0.0)])), tmp_path)
    assert why_not_exportable(tmp_path) is None
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.model").write_bytes(b"")
    assert why_not_exportable(tmp_path) is None


def test_folder_without_a_tokenizer_has_a_reason(tmp_path: Path) -> None:
    assert "no tokenizer.json" in str(why_not_exportable(tmp_path))
