import json
from pathlib import Path
from typing import Any

import gguf
import pytest

from stages.core.errors import StageError
from stages.gguf_export.tokenization_check import (
    TEXTS,
    begins_with_bos,
    refuse_two_begins,
    verify_template,
    verify_texts,
    verify_vocabulary,
)
from stages.llama_cpp.runtime import Model
from stages.tokenization.exportable import pretokenizer as rules
from tests.stages.gguf_export.support.models_in_small import LLAMA_3_TEMPLATE
from tests.stages.gguf_export.support.tokenizers_in_small import gpt_2, save, split_by, train, write_vocabulary

pytestmark = pytest.mark.slow  # they import transformers


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return save(train(split_by(rules.LLAMA_3)), tmp_path_factory.mktemp("tokenizer"), LLAMA_3_TEMPLATE)


def file_of(
    path: Path, tokenizer: Any, pre: str = "llama-bpe", template: str = LLAMA_3_TEMPLATE, *, adds_bos: bool = True
) -> Path:
    """A GGUF file of a tokenizer, with a chat template."""
    from stages.llama_cpp.quantize import quantize

    write_vocabulary(path.with_suffix(".vocabulary"), tokenizer.backend_tokenizer, pre)
    quantize(
        path.with_suffix(".vocabulary"),
        path,
        "f16",
        {"tokenizer.chat_template": template, "tokenizer.ggml.add_bos_token": adds_bos},
        threads=1,
    )
    return path


def test_file_of_the_tokenizer_passes_every_check(tmp_path: Path, tokenizer: Any) -> None:
    path = file_of(tmp_path / "a.gguf", tokenizer)
    verify_vocabulary(gguf.GGUFReader(path), tokenizer)
    with Model(path, context=256, threads=1) as model:
        assert verify_texts(model, tokenizer, {"row-1": "the red lamp"}) > 50
        assert verify_template(model, tokenizer) == 8
        assert (model.bos, model.eos, model.ends(model.eos), model.adds_bos) == (
            tokenizer.bos_token_id,
            tokenizer.eos_token_id,
            True,
            True,
        )
        assert model.text(model.tokenize("Grüße, 世界 <|eot_id|>!")) == "Grüße, 世界 !"


def test_file_with_two_merges_swapped_fails(
    tmp_path: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = json.loads(tokenizer.backend_tokenizer.to_str())
    merges = other["model"]["merges"]
    merges[100], merges[101] = merges[101], merges[100]
    from tokenizers import Tokenizer

    changed = save(Tokenizer.from_str(json.dumps(other)), tmp_path_factory.mktemp("changed"), LLAMA_3_TEMPLATE)
    path = file_of(tmp_path / "a.gguf", changed)
    with pytest.raises(StageError, match=r"merges .*from rank 100 on"):
        verify_vocabulary(gguf.GGUFReader(path), tokenizer)


def test_file_with_another_vocabulary_fails(
    tmp_path: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = save(train(split_by(rules.LLAMA_3), seed=2), tmp_path_factory.mktemp("other"), LLAMA_3_TEMPLATE)
    with pytest.raises(StageError, match="entries of the vocabulary differ"):
        verify_vocabulary(gguf.GGUFReader(file_of(tmp_path / "a.gguf", other)), tokenizer)


def test_file_with_another_splitting_rule_fails(tmp_path: Path, tokenizer: Any) -> None:
    with (
        Model(file_of(tmp_path / "a.gguf", tokenizer, pre="gpt-2"), context=256, threads=1) as model,
        pytest.raises(StageError, match=r"tokenizes text .* of the fixed list"),
    ):
        verify_texts(model, tokenizer, {})


def test_row_that_the_file_tokenizes_differently_is_named_and_not_shown(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    spaced = train(gpt_2())
    spaced.normalizer = None
    tokenizer = save(spaced, tmp_path_factory.mktemp("spaced"), LLAMA_3_TEMPLATE)
    path = file_of(tmp_path / "a.gguf", tokenizer, pre="gpt-2")
    from tokenizers import normalizers

    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("secret", "public")
    with (
        Model(path, context=256, threads=1) as model,
        pytest.raises(StageError, match="row abc in another way") as raised,
    ):
        verify_texts(model, tokenizer, {"abc": "a secret text"})
    assert "secret" not in str(raised.value)


def test_rows_that_llama_cpps_copy_of_a_rule_is_not_made_for_are_refused_and_fixed_texts_only_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cased = save(train(split_by(rules.GPT_4O)), tmp_path / "cased", LLAMA_3_TEMPLATE)
    path = file_of(tmp_path / "a.gguf", cased, pre="gpt-4o")
    with Model(path, context=256, threads=1) as model:
        equal = verify_texts(model, cased, {"abc": "the red lamp, Straße, нещо на Български"})
        assert equal == len(TEXTS) + 1 - 2
        assert "accented capitals" in caplog.text
        with pytest.raises(StageError, match=r"row abc in another way.*llama\.cpp's copy.*exclusions"):
            verify_texts(model, cased, {"abc": "ÅNGSTRÖM"})
    plain = file_of(tmp_path / "b.gguf", cased, pre="llama-bpe")
    with (
        Model(plain, context=256, threads=1) as model,
        pytest.raises(StageError, match="its pre-tokenizer or vocabulary is not"),
    ):
        verify_texts(model, cased, {})


@pytest.mark.parametrize(
    "template",
    [
        LLAMA_3_TEMPLATE.replace("\n\n", "\n"),
        LLAMA_3_TEMPLATE.replace("| trim", ""),
        LLAMA_3_TEMPLATE.replace("<|eot_id|>", "<|end_of_text|>"),
    ],
)
def test_file_with_another_template_fails(tmp_path: Path, tokenizer: Any, template: str) -> None:
    from stages.gguf_export.modelfile import CONVERSATIONS

    padded = "| trim" not in template
    path = file_of(tmp_path / "a.gguf", tokenizer, template=template)
    assert all(message["content"].strip() == message["content"] for messages in CONVERSATIONS for message in messages)
    with Model(path, context=256, threads=1) as model:
        if padded:  # the same on every text without outer white space
            assert verify_template(model, tokenizer) == 8
            return
        with pytest.raises(StageError, match="gives other ids"):
            verify_template(model, tokenizer)


def test_file_without_a_template_fails(tmp_path: Path, tokenizer: Any) -> None:
    write_vocabulary(tmp_path / "a.gguf", tokenizer.backend_tokenizer, "llama-bpe")
    with (
        Model(tmp_path / "a.gguf", context=256, threads=1) as model,
        pytest.raises(StageError, match="holds no chat template"),
    ):
        verify_template(model, tokenizer)


def test_template_that_writes_bos_twice_fails(
    tmp_path: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    twice = "{{ bos_token }}" + LLAMA_3_TEMPLATE
    doubled = save(tokenizer.backend_tokenizer, tmp_path_factory.mktemp("doubled"), twice)
    with (
        Model(file_of(tmp_path / "a.gguf", doubled, template=twice), context=256, threads=1) as model,
        pytest.raises(StageError, match="BOS twice"),
    ):
        verify_template(model, doubled)


def test_file_that_adds_a_bos_which_the_template_does_not_write_fails(
    tmp_path: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    without = LLAMA_3_TEMPLATE.replace("{{- bos_token }}", "")
    bare = save(tokenizer.backend_tokenizer, tmp_path_factory.mktemp("bare"), without)
    assert (begins_with_bos(tokenizer), begins_with_bos(bare)) == (True, False)
    with (
        Model(file_of(tmp_path / "a.gguf", bare, template=without), context=256, threads=1) as model,
        pytest.raises(StageError, match="gives other ids"),
    ):
        verify_template(model, bare)
    with Model(file_of(tmp_path / "b.gguf", bare, template=without, adds_bos=False), context=256, threads=1) as model:
        assert verify_template(model, bare) == 8


def test_bos_twice_at_the_beginning_is_refused_and_later_ones_are_not() -> None:
    refuse_two_begins([1, 5, 6, 1], 1, "a row")
    refuse_two_begins([5, 5], None, "a row")
    with pytest.raises(StageError, match="a row begins with BOS twice"):
        refuse_two_begins([1, 1, 5], 1, "a row")
