import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from stages.core.errors import StageError
from stages.gguf import GgufParams
from stages.llama_cpp.quantization_names import QUANTIZATIONS
from stages.tokenization.exportable import pretokenizer as rules
from tests.stages.gguf_export.support.models_in_small import LLAMA_3_TEMPLATE, make_adapter, make_merged, make_tokens
from tests.stages.gguf_export.support.records_in_small import export, params
from tests.stages.gguf_export.support.tokenizers_in_small import CONTROL, gpt_2, save, split_by, train


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantizations": ["q8_0", "q9_k"]}, "unknown quantization q9_k; known: f32, f16, bf16, q8_0"),
        ({"quantizations": ["q8_0", "iq2_xs", "iq1_s"]}, "iq2_xs, iq1_s need an importance matrix"),
        ({"imatrix_tokens": 0}, "greater than or equal to 1"),
        ({"quantizations": ["q8_0", "q4_0", "q8_0"]}, "named twice: q8_0"),
        ({"quantizations": []}, "at least 1 item"),
        ({"name": "../up"}, "should match pattern"),
        ({"check_rows": 0}, "greater than or equal to 1"),
        ({"lora": "q8_0"}, "'none', 'f16' or 'f32'"),
        ({"lora": "f16", "lora_base": "q9_k"}, "unknown quantization q9_k"),
        ({"lora_base": "q8_0"}, "lora_base must be null where lora is none"),
        ({"sampling": {"temperature": 0.7, "min_p": 1.5, "max_new_tokens": 1}}, "less than or equal to 1"),
    ],
)
def test_params_that_name_no_export_are_refused(change: dict[str, Any], message: str) -> None:
    right = params("q8_0").model_dump()
    with pytest.raises(ValidationError, match=message):
        GgufParams.model_validate(right | change)


def test_docstring_of_quantizations_names_every_one() -> None:
    source = inspect.getsource(GgufParams)
    text = source[source.index("quantizations:") : source.index("check_rows:")].translate(
        dict.fromkeys(map(ord, ".,:"), " ")
    )
    assert [name for name in QUANTIZATIONS if name not in text.split()] == []


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """An untied Llama with Llama 3's splitting rule, exported."""
    root = tmp_path_factory.mktemp("llama")
    tokenizer = save(train(split_by(rules.LLAMA_3)), root / "tokenizer", LLAMA_3_TEMPLATE)
    make_merged(root / "merged", tokenizer)
    make_tokens(root / "tokens", tokenizer)
    make_adapter(root / "adapter")
    return root, export(root, params("bf16", "f16", "q8_0", "q4_k_m"))


@pytest.mark.slow
def test_export_of_a_llama_measures_files_in_the_order_of_their_rounding(llama: tuple[Path, dict[str, Any]]) -> None:
    root, found = llama
    assert sorted(path.name for path in (root / "gguf").iterdir()) == [
        "Modelfile", "README.md", "checks.json", "small-bf16.gguf", "small-f16.gguf", "small-q4_k_m.gguf", "small-q8_0.gguf",
    ]  # fmt: skip
    quality = {found["files"][name]["quantization"]: found["files"][name]["quality"] for name in found["files"]}
    assert quality["f16"]["kl"] < 1e-4
    assert quality["f16"]["kl"] < quality["q8_0"]["kl"] < quality["q4_k_m"]["kl"]
    assert quality["f16"]["top_1_agreement"] > 0.97
    assert quality["f16"]["perplexity"] == pytest.approx(found["merged"]["perplexity"], rel=0.01)
    assert found["tokens"] == sum(label != -100 for row in labels(root) for label in row)
    assert found["answers"] == 4
    assert quality["f16"]["answers_equal"] >= 3
    assert (found["stop"], found["stops_by"], found["split"], found["modelfile_template"]) == (
        ["<|eot_id|>"],
        "token",
        "heldout",
        True,
    )


def labels(root: Path) -> list[list[int]]:
    from stages.arrow.tables import read_arrow

    rows: list[list[int]] = read_arrow(root / "tokens" / "heldout.arrow").column("labels").to_pylist()
    return rows[:4]


@pytest.mark.slow
def test_export_of_a_llama_says_what_each_file_is(llama: tuple[Path, dict[str, Any]]) -> None:
    root, found = llama
    file = found["files"]["small-q4_k_m.gguf"]
    assert file["bytes"] == (root / "gguf" / "small-q4_k_m.gguf").stat().st_size
    assert file["types"] == {"F32": 5, "Q4_K": 13, "Q6_K": 3}
    assert (file["pre_tokenizer"], file["adds_bos"], file["dialogues_equal"], file["fallbacks"]) == (
        "llama-bpe",
        True,
        8,
        {},
    )
    assert file["texts_equal"] > 50


@pytest.mark.slow
def test_export_twice_gives_the_same_bytes_and_names_no_place(
    llama: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    root, _ = llama
    for part in ("merged", "adapter", "tokens"):
        (tmp_path / part).symlink_to(root / part)
    export(tmp_path, params("bf16", "f16", "q8_0", "q4_k_m"))
    for path in sorted((root / "gguf").iterdir()):
        assert (tmp_path / "gguf" / path.name).read_bytes() == path.read_bytes(), path.name
        assert str(root).encode() not in path.read_bytes()
        assert b"/tmp" not in path.read_bytes()


@pytest.mark.slow
def test_export_of_a_tied_qwen_with_a_larger_vocabulary_passes(tmp_path: Path) -> None:
    """Biases, tied embeddings, a vocabulary padded past its tokenizer, added control tokens, no BOS in the template, Qwen 2's splitting rule."""
    from tokenizers import AddedToken

    trained = train(split_by(rules.QWEN_2))
    trained.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in ("<|im_start|>", "<|im_end|>")]
    )
    template = LLAMA_3_TEMPLATE.replace("{{- bos_token }}", "").replace("<|eot_id|>", "<|im_end|>")
    tokenizer = save(trained, tmp_path / "tokenizer", template)
    make_merged(tmp_path / "merged", tokenizer, family="qwen2", tied=True, vocabulary=1024)
    make_tokens(tmp_path / "tokens", tokenizer, end="<|im_end|>", begins=0)
    make_adapter(tmp_path / "adapter")
    found = export(tmp_path, params("bf16", "q8_0"))
    file = found["files"]["small-q8_0.gguf"]
    assert (file["pre_tokenizer"], file["adds_bos"], found["stop"]) == ("qwen2", False, ["<|im_end|>"])
    assert file["tensors"] == 2 + 2 * 12
    assert found["files"]["small-bf16.gguf"]["quality"]["top_1_agreement"] > 0.9


@pytest.mark.slow
def test_export_without_control_tokens_stops_by_text(tmp_path: Path) -> None:
    """GPT-2's splitting rule; the turn ends in a text that the vocabulary has no token for."""
    template = LLAMA_3_TEMPLATE.replace("<|eot_id|>", "[[over]]")
    tokenizer = save(train(gpt_2()), tmp_path / "tokenizer", template)
    make_merged(tmp_path / "merged", tokenizer)
    make_tokens(tmp_path / "tokens", tokenizer, end="[[over]]")
    make_adapter(tmp_path / "adapter")
    found = export(tmp_path, params("q8_0"))
    assert (found["stops_by"], found["stop"], found["files"]["small-q8_0.gguf"]["pre_tokenizer"]) == (
        "text",
        ["[[over]]"],
        "gpt-2",
    )
    assert 'PARAMETER stop "[[over]]"' in (tmp_path / "gguf" / "Modelfile").read_text(encoding="utf-8")


def merged_with(root: Path, part: Path, edit: Any) -> None:
    """`part` as `root`, with another tokenizer in its merged model; links otherwise."""
    for name in ("tokens", "adapter"):
        (part / name).symlink_to(root / name)
    (part / "merged").mkdir()
    for path in (root / "merged").iterdir():
        (part / "merged" / path.name).write_bytes(path.read_bytes())
    edit(part / "merged")


def other_template(merged: Path) -> None:
    (merged / "chat_template.jinja").write_text(LLAMA_3_TEMPLATE.replace("\n\n", "\n"), encoding="utf-8")


def other_merges(merged: Path) -> None:
    tokenizer = json.loads((merged / "tokenizer.json").read_text(encoding="utf-8"))
    merges = tokenizer["model"]["merges"]
    merges[50], merges[51] = merges[51], merges[50]
    (merged / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")


def pad_for_eos(merged: Path) -> None:
    config = json.loads((merged / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["eos_token"] = config["pad_token"] = CONTROL[-1]
    (merged / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def lacking_tensor(merged: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(merged / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, merged / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (other_template, "holds another template"),
        (other_merges, "merges in the file are not those"),
        (pad_for_eos, "has the EOS token"),
        (lacking_tensor, r"lacks model\.layers\.1\.mlp\.up_proj\.weight"),
    ],
)
def test_export_of_a_broken_merged_folder_fails(
    llama: tuple[Path, dict[str, Any]], tmp_path: Path, edit: Any, message: str
) -> None:
    merged_with(llama[0], tmp_path, edit)
    with pytest.raises(StageError, match=message):
        export(tmp_path, params("q8_0", answers=1))


@pytest.mark.slow
def test_export_refuses_rows_whose_bos_is_doubled_or_missing(
    llama: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(llama[0] / "tokenizer")
    for begins, message in ((2, "begins with BOS twice"), (0, "lacks the BOS")):
        root = tmp_path / str(begins)
        root.mkdir()
        make_tokens(root / "tokens", tokenizer, begins=begins)
        for part in ("merged", "adapter"):
            (root / part).symlink_to(llama[0] / part)
        with pytest.raises(StageError, match=message):
            export(root, params("q8_0"))


@pytest.mark.slow
def test_export_of_an_unknown_splitting_rule_fails_with_the_rule(tmp_path: Path) -> None:
    tokenizer = save(train(split_by(r"\p{L}+|\p{N}+|.|\n")), tmp_path / "tokenizer", LLAMA_3_TEMPLATE)
    make_merged(tmp_path / "merged", tokenizer)
    make_tokens(tmp_path / "tokens", tokenizer)
    make_adapter(tmp_path / "adapter")
    with pytest.raises(StageError, match="does not know, so no GGUF file"):
        export(tmp_path, params("q8_0"))
