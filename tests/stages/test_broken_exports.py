"""Exports that are broken on purpose: each is refused, for what was broken. Real models, real tools, in small.

What others show: wrong template, EOS replaced by the pad token, BOS twice (test_gguf, gguf_export/test_tokenization_check); adapters that are not
whole, do not fit or hold NaN, a disk without room, a model merged twice (test_merge); PEFT's own tests (test_folding).
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.contracts import adapter as adapter_files
from stages.contracts import base as base_files
from stages.core.errors import StageError
from stages.core.files import read_json
from stages.core.params import Runtime
from stages.gguf_export.convert import finish_conversion, start_conversion
from stages.gguf_export.folder_tensors import read_weights
from stages.gguf_export.tensor_check import verify_conversion, verify_quantized
from stages.gguf_export.tokenization_check import verify_texts, verify_vocabulary
from stages.llama_cpp.fast_gguf_reader import open_quickly
from stages.llama_cpp.programs import find_existing
from stages.llama_cpp.quantize import quantize
from stages.llama_cpp.runtime import Model
from stages.merge import MergeParams, merge
from stages.tokenization.exportable import pretokenizer as rules
from tests.stages.gguf_export.support.models_in_small import LLAMA_3_TEMPLATE, make_adapter, make_merged, make_tokens
from tests.stages.gguf_export.support.records_in_small import export, params
from tests.stages.gguf_export.support.tokenizers_in_small import save, split_by, train
from tests.stages.training.support import tiny
from tests.stages.weights.support import handmade

pytestmark = pytest.mark.slow

RUNTIME = Runtime.model_validate(tiny.RUNTIME)
LOST = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A merged folder and `full.gguf`, its conversion, which passes."""
    root = tmp_path_factory.mktemp("whole")
    tokenizer = save(train(split_by(rules.LLAMA_3)), root / "tokenizer", LLAMA_3_TEMPLATE)
    make_merged(root / "merged", tokenizer)
    convert(root / "merged", root / "full.gguf")
    verify_conversion(open_quickly(root / "full.gguf"), read_weights(root / "merged"))
    verify_vocabulary(open_quickly(root / "full.gguf"), tokenizer)
    return root


def convert(folder: Path, target: Path) -> None:
    finish_conversion(start_conversion(folder, target, "bf16", "small"), target)


def test_converter_that_ctrl_c_ended_is_no_failure_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "full.log").write_text("Traceback")
    command = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGINT); signal.pause()"]
    with pytest.raises(KeyboardInterrupt):
        finish_conversion(subprocess.Popen(command, stderr=subprocess.DEVNULL), tmp_path / "full.gguf")


def altered_folder(source: Path, target: Path, alter: Any) -> Path:
    """A copy of a merged folder whose tensors are altered."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    alter(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_converter_and_quantizers_end_well_without_a_tensor_and_the_file_is_refused(
    whole: Path, tmp_path: Path
) -> None:
    folder = altered_folder(whole / "merged", tmp_path / "merged", lambda tensors: tensors.pop(LOST))
    source = tmp_path / "full.gguf"
    convert(folder, source)  # raises nothing
    quantize(source, tmp_path / "q8_0.gguf", "q8_0", {}, threads=1)
    if tool := find_existing("llama-quantize"):
        subprocess.run([tool, source, tmp_path / "theirs.gguf", "Q8_0"], check=True, capture_output=True)
    with pytest.raises(StageError, match=r"the merged model lacks blk\.1\.ffn_up\.weight"):
        verify_conversion(open_quickly(source), read_weights(folder))
    with pytest.raises(StageError, match=r"the converted file lacks blk\.1\.ffn_up\.weight"):
        verify_conversion(open_quickly(source), read_weights(whole / "merged"))
    with pytest.raises(StageError, match=r"does not load q8_0\.gguf: .*blk\.1\.ffn_up\.weight"):
        Model(tmp_path / "q8_0.gguf", context=256, threads=1)


def test_tensor_altered_after_the_conversion_is_refused_by_its_name(whole: Path, tmp_path: Path) -> None:
    def alter(tensors: Any) -> None:
        tensors["model.layers.0.self_attn.k_proj.weight"][3, 5] *= 1.1

    folder = altered_folder(whole / "merged", tmp_path / "merged", alter)
    with pytest.raises(StageError, match=r"blk\.0\.attn_k\.weight has other values .*layers\.0\.self_attn\.k_proj"):
        verify_conversion(open_quickly(whole / "full.gguf"), read_weights(folder))


@pytest.mark.parametrize("quantization", ["q8_0", "q4_k_m"])
def test_row_altered_in_a_quantized_file_is_refused(whole: Path, tmp_path: Path, quantization: str) -> None:
    path = tmp_path / "out.gguf"
    quantize(whole / "full.gguf", path, quantization, {}, threads=1)
    verify_quantized(open_quickly(path), open_quickly(whole / "full.gguf"), threads=1)
    reader = open_quickly(path, "r+")
    down = next(tensor for tensor in reader.tensors if tensor.name == "blk.1.ffn_down.weight").data
    down[9] = down[10].copy()
    reader.data.flush()
    with Model(path, context=256, threads=1):
        pass  # llama.cpp has nothing to say
    with pytest.raises(StageError, match=r"blk\.1\.ffn_down\.weight differs .* in 1 rows"):
        verify_quantized(open_quickly(path), open_quickly(whole / "full.gguf"), threads=1)


def test_tokenizer_saved_again_with_other_merges_gives_a_file_whose_logits_agree_and_that_is_refused(
    whole: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    shutil.copytree(whole / "merged", tmp_path / "merged")
    file = tmp_path / "merged" / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][::-1]
    tokenizer["model"]["ignore_merges"] = False
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    convert(tmp_path / "merged", tmp_path / "full.gguf")
    right = AutoTokenizer.from_pretrained(whole / "tokenizer")
    verify_conversion(open_quickly(tmp_path / "full.gguf"), read_weights(whole / "merged"))
    ids, wanted = list(range(40)), np.ones(40, dtype=np.bool_)
    text = "the lamp in the kitchen has a chair"
    with Model(whole / "full.gguf", context=256, threads=1) as one, Model(tmp_path / "full.gguf", 256, 1) as other:
        assert np.array_equal(one.logits(ids, wanted), other.logits(ids, wanted))
        assert one.tokenize(text) != other.tokenize(text)
        assert one.text(one.tokenize(text)) == other.text(other.tokenize(text)) == text
        with pytest.raises(StageError, match="tokenizes text 0 of the fixed list in another way"):
            verify_texts(other, right, {})
    with pytest.raises(StageError, match="the merges in the file are not those"):
        verify_vocabulary(open_quickly(tmp_path / "full.gguf"), right)


def test_dimensions_that_a_k_quant_does_not_take_fall_back_and_the_export_says_to_what(tmp_path: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = save(train(split_by(rules.LLAMA_3)), tmp_path / "tokenizer", LLAMA_3_TEMPLATE)
    torch.manual_seed(1)
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=192, intermediate_size=288, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=3, max_position_embeddings=512, initializer_range=0.1, **special,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "merged")
    tokenizer.save_pretrained(tmp_path / "merged")
    make_tokens(tmp_path / "tokens", tokenizer)
    make_adapter(tmp_path / "adapter")
    file = export(tmp_path, params("q4_k_m", answers=1))["files"]["small-q4_k_m.gguf"]
    assert set(file["types"]) == {"F32", "Q5_0", "Q8_0"}
    assert file["fallbacks"]["blk.0.attn_q.weight"] == "Q4_K -> Q5_0"
    assert file["fallbacks"]["blk.1.attn_v.weight"] == "Q6_K -> Q8_0"
    # the output matrix is meant to be Q8_0 there
    assert len(file["fallbacks"]) == file["types"]["Q5_0"] + file["types"]["Q8_0"] - 1


def test_disk_without_room_for_the_files_is_refused_before_any_is_written(whole: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    shutil.copytree(whole / "merged", tmp_path / "merged")
    make_tokens(tmp_path / "tokens", AutoTokenizer.from_pretrained(whole / "tokenizer"))
    make_adapter(tmp_path / "adapter")
    size = shutil.disk_usage(tmp_path).free + 2**40
    header = json.dumps({"hole": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with (tmp_path / "merged" / "model-hole.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)  # a hole, which takes no room
    with pytest.raises(StageError, match=r"GB are free here, and up to .* GB are needed"):
        export(tmp_path, params("q8_0"))
    assert not list((tmp_path / "gguf").rglob("*.gguf"))


# --- the merge ------------------------------------------------------------------------------------------------------


def fold(base: Path, adapter: Path, tokens: Path, target: Path) -> Path:
    wanted = MergeParams(into="base16", check_rows=2, max_logit_difference=0.3)
    merge(base, adapter, tokens, target, wanted, RUNTIME)
    return target


def test_adapter_of_another_revision_of_the_same_shape_is_refused_before_anything_is_written(
    tiny_base: Path, tmp_path: Path
) -> None:
    def alter(tensors: Any) -> None:
        tensors["model.layers.0.mlp.up_proj.weight"][0, 0] += 1

    other = altered_folder(tiny_base / "base", tmp_path / "base", alter)
    adapter = handmade.make_adapter(other, tiny_base / "tokens", tmp_path / "adapter", dtype="bfloat16")
    fold(other, adapter, tiny_base / "tokens", tmp_path / "right")
    with pytest.raises(StageError, match=r"trained on another base than .*model\.safetensors differ.*fetch the base"):
        fold(tiny_base / "base", adapter, tiny_base / "tokens", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_adapter_of_another_model_whose_record_was_forged_is_refused_by_its_shapes(
    tiny_base: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(tiny_base / "base", hidden_size=32, head_dim=8)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "small")
    adapter = handmade.make_adapter(tmp_path / "small", tiny_base / "tokens", tmp_path / "adapter")
    own = handmade.make_adapter(tiny_base / "base", tiny_base / "tokens", tmp_path / "own")
    shutil.copyfile(own / adapter_files.TRAINING, adapter / adapter_files.TRAINING)
    with pytest.raises(StageError, match=r"do not fit the base's .*another model's adapter"):
        fold(tiny_base / "base", adapter, tiny_base / "tokens", tmp_path / "merged")


def test_merge_applied_twice_is_refused_even_where_its_marker_and_its_record_are_made_to_fit(
    tiny_base: Path, tmp_path: Path
) -> None:
    """The weights alone show it: folded in twice, the model differs from base + adapter, whatever the files say."""
    from stages.merging.agreement import compare
    from stages.weights.folding import read_update

    base, tokens = tiny_base / "base", tiny_base / "tokens"
    adapter = handmade.make_adapter(base, tokens, tmp_path / "adapter", dtype="bfloat16")
    once = fold(base, adapter, tokens, tmp_path / "once")
    with pytest.raises(StageError, match="already merged"):
        fold(once, adapter, tokens, tmp_path / "twice")
    forged = shutil.copytree(adapter, tmp_path / "forged")
    training = read_json(forged / adapter_files.TRAINING)
    training["base"] = read_json(once / base_files.MERGED_MARKER)["files"]
    (forged / adapter_files.TRAINING).write_text(json.dumps(training), encoding="utf-8")
    (once / base_files.MERGED_MARKER).unlink()
    twice = fold(once, forged, tokens, tmp_path / "twice")
    update = read_update(adapter, 384)
    right = compare(base, adapter, tmp_path / "once", tokens, update, "base16", 2, RUNTIME)
    wrong = compare(base, adapter, twice, tokens, update, "base16", 2, RUNTIME)
    assert right["max_logit_difference"] < 0.3
    assert wrong["max_logit_difference"] > 1
