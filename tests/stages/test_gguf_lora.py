"""The adapter alone as a GGUF file: base + adapter is the merged model, or there is no file."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.core.errors import StageError
from stages.llama_cpp.sources import find_sources
from stages.tokenization.exportable import pretokenizer as rules
from tests.stages.gguf_export.support.adapters_in_small import ALPHA, RANK, make_trained
from tests.stages.gguf_export.support.models_in_small import LLAMA_3_TEMPLATE, make_tokens
from tests.stages.gguf_export.support.records_in_small import export, params
from tests.stages.gguf_export.support.tokenizers_in_small import save, split_by, train

pytestmark = pytest.mark.slow


def make(root: Path, family: str = "llama", **lora: Any) -> Path:
    tokenizer = save(train(split_by(rules.LLAMA_3)), root / "tokenizer", LLAMA_3_TEMPLATE)
    make_trained(root, tokenizer, family, **lora)
    make_tokens(root / "tokens", tokenizer)
    return root


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("llama"))


def edited(root: Path, part: Path, name: str) -> Path:
    """`part` as `root`, with links, and a copy of its folder `name`, which is given back."""
    for folder in ("base", "adapter", "merged", "tokens"):
        if folder != name:
            (part / folder).symlink_to(root / folder)
    shutil.copytree(root / name, part / name)
    return part / name


def edit_json(path: Path, **change: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **change}), encoding="utf-8")


def tensors(path: Path) -> dict[str, Any]:
    from gguf import GGUFReader

    return {tensor.name: tensor.data for tensor in GGUFReader(path).tensors}


@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_adapter_over_the_unquantized_base_answers_like_the_merged_models_own_file(
    llama: Path, tmp_path: Path, kind: str
) -> None:
    edited(llama, tmp_path, "tokens")
    found = export(tmp_path, params("bf16", lora=kind))
    lora, merged = found["lora"], found["files"]["small-bf16.gguf"]
    # llama.cpp rounds what it multiplies with BF16: that is what both differ by from the merged model in float32
    assert lora["quality"]["kl"] < 2 * merged["quality"]["kl"] < 0.01
    assert lora["quality"]["top_1_agreement"] > 0.95
    assert (lora["over"]["file"], lora["over"]["quantization"]) == (None, "bf16")
    assert (lora["rank"], lora["scaling"], lora["matrices"]) == (RANK, ALPHA / RANK, 2 * 7)
    assert lora["bytes"] == (tmp_path / "gguf" / f"small-lora-{kind}.gguf").stat().st_size
    assert not list((tmp_path / "gguf").glob("*base*"))


def test_adapter_over_a_base_file_of_its_own_is_measured_over_that(llama: Path, tmp_path: Path) -> None:
    edited(llama, tmp_path, "tokens")
    found = export(tmp_path, params("q8_0", lora="f16", lora_base="q8_0"))
    assert found["lora"]["over"]["file"] == "small-base-q8_0.gguf"
    assert found["lora"]["quality"]["kl"] < 10 * found["files"]["small-q8_0.gguf"]["quality"]["kl"]
    # Ollama 0.34.1 and later refuse a Modelfile with an adapter
    assert "ADAPTER" not in (tmp_path / "gguf/Modelfile").read_text(encoding="utf-8")
    # the base alone is another model: what was measured is the adapter's doing
    from stages.llama_cpp.runtime import Model

    ids = list(range(40, 60))
    last = np.arange(len(ids)) == len(ids) - 1
    with Model(tmp_path / "gguf/small-base-q8_0.gguf", context=256, threads=1) as base:
        alone = base.logits(ids, last)
        base.apply_lora(tmp_path / "gguf/small-lora-f16.gguf")
        together = base.logits(ids, last)
    with Model(tmp_path / "gguf/small-q8_0.gguf", context=256, threads=1) as merged:
        theirs = merged.logits(ids, last)
    assert np.abs(together - theirs).max() < 0.1 * np.abs(alone - theirs).max()


def test_adapter_with_rslora_is_scaled_by_the_root_of_its_rank(tmp_path: Path) -> None:
    found = export(make(tmp_path, use_rslora=True), params("bf16", lora="f32"))
    assert found["lora"]["scaling"] == pytest.approx(ALPHA / RANK**0.5)
    assert found["lora"]["quality"]["kl"] < 3 * found["files"]["small-bf16.gguf"]["quality"]["kl"]


def test_adapter_of_a_qwen_has_its_rows_as_they_are(tmp_path: Path) -> None:
    tokenizer = save(train(split_by(rules.QWEN_2)), tmp_path / "tokenizer", LLAMA_3_TEMPLATE)
    make_trained(tmp_path, tokenizer, "qwen2", vocabulary=1024)
    make_tokens(tmp_path / "tokens", tokenizer)
    found = export(tmp_path, params("bf16", lora="f16", lora_base="bf16"))
    assert found["lora"]["quality"]["kl"] < 3 * found["files"]["small-bf16.gguf"]["quality"]["kl"]


def test_adapter_file_is_what_llama_cpps_own_script_writes(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edited(llama, tmp_path, "tokens")
    export(tmp_path, params("q8_0", lora="f32"))
    script = find_sources() / "convert_lora_to_gguf.py"
    # its own process would load PyTorch a second time; its modules are apart from ours all the same
    code = f"import runpy, sys; sys.path[:0] = {[str(script.parent / 'gguf-py'), str(script.parent)]!r}; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    theirs = tmp_path / "theirs.gguf"
    command = [str(script), str(llama / "adapter"), "--base", str(llama / "merged"), "--outfile", str(theirs)]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    ours, other = tensors(tmp_path / "gguf/small-lora-f32.gguf"), tensors(theirs)
    assert ours.keys() == other.keys()
    assert all(np.array_equal(ours[name], other[name]) for name in ours)


def test_adapter_of_another_training_is_refused(llama: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    adapter = edited(llama, tmp_path, "adapter")
    weights = load_file(adapter / "adapter_model.safetensors")
    name = next(name for name in weights if "layers.1.self_attn.q_proj.lora_B" in name)
    weights[name] *= 1.5
    save_file(weights, adapter / "adapter_model.safetensors")
    with pytest.raises(StageError, match=r"blk\.1\.attn_q\.weight of base \+ adapter differs"):
        export(tmp_path, params("q8_0", lora="f16"))


def test_base_with_another_tensor_is_refused(llama: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    base = edited(llama, tmp_path, "base")
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"] *= 1.5
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StageError, match=r"output_norm\.weight of base \+ adapter differs"):
        export(tmp_path, params("q8_0", lora="f16"))


def test_file_with_rows_in_the_folders_order_is_no_proof(llama: Path, tmp_path: Path) -> None:
    """A Llama's query rows lie in another order in a GGUF file: a file that does not know it loads, and is another model."""
    from gguf import GGUFReader

    from stages.gguf_export.adapter_file import read_adapter, verify_lora, write_lora
    from stages.gguf_export.folder_tensors import read_weights
    from stages.gguf_export.tensor_check import names_in_file
    from stages.llama_cpp.tensor_types import Hparams

    edited(llama, tmp_path, "tokens")
    export(tmp_path, params("bf16", lora="f32", lora_base="bf16"))
    base, merged = (GGUFReader(tmp_path / f"gguf/small-{name}.gguf") for name in ("base-bf16", "bf16"))
    update, _ = read_adapter(llama / "adapter", llama / "merged")
    assert update is not None
    names = names_in_file("llama", 2, read_weights(llama / "merged"))
    verify_lora(GGUFReader(tmp_path / "gguf/small-lora-f32.gguf"), base, merged, 14, 1)
    unordered = Hparams("no llama", layers=2, heads=4, key_value_heads=2, experts=0)
    write_lora(tmp_path / "wrong.gguf", update, names, unordered, "f32", "wrong", {})
    with pytest.raises(StageError, match=r"blk\.0\.attn_k\.weight of base \+ adapter differs"):
        verify_lora(GGUFReader(tmp_path / "wrong.gguf"), base, merged, 14, 1)


def dora(root: Path) -> None:
    make(root, use_dora=True)


def whole_head(root: Path) -> None:
    make(root, modules_to_save=["lm_head"])


def added_tokens(root: Path) -> None:
    make(root, trainable_token_indices={"embed_tokens": [3, 5]})
    edit_json(root / "adapter/retune.json", trained_rows=[3, 5])


def into_nf4(root: Path) -> None:
    make(root)
    edit_json(root / "merged/merged.json", into="dequantized_nf4")


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (dora, "use_dora"),
        (whole_head, "holds lm_head.weight whole"),
        (added_tokens, "2 rows of the embedding were trained"),
        (into_nf4, "dequantized NF4"),
    ],
)
def test_adapter_that_a_gguf_file_cannot_hold_is_left_out_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, case: Any, reason: str
) -> None:
    case(tmp_path)
    with caplog.at_level(logging.WARNING, "retune"):
        found = export(tmp_path, params("q8_0", lora="f16", lora_base="q8_0"))
    assert found["lora"] is None
    assert reason in found["lora_left_out"]
    assert reason in caplog.text
    assert reason in (tmp_path / "gguf/README.md").read_text(encoding="utf-8")
    assert [path.name for path in (tmp_path / "gguf").glob("*.gguf")] == ["small-q8_0.gguf"]


def test_base_file_stays_the_same_when_one_trains_again(tmp_path: Path) -> None:
    digests = []
    for seed in (1, 2):
        root = tmp_path / str(seed)
        root.mkdir()
        tokenizer = save(train(split_by(rules.LLAMA_3)), root / "tokenizer", LLAMA_3_TEMPLATE)
        make_trained(root, tokenizer, seed=seed)
        make_tokens(root / "tokens", tokenizer)
        lora = export(root, params("q8_0", lora="f16", lora_base="q8_0"))["lora"]
        digests.append((lora["over"]["sha256"], lora["sha256"]))
    assert digests[0][0] == digests[1][0]
    assert digests[0][1] != digests[1][1]


def test_export_with_adapter_twice_gives_the_same_bytes_and_names_no_place(llama: Path, tmp_path: Path) -> None:
    for part in ("one", "two"):
        (tmp_path / part).mkdir()
        edited(llama, tmp_path / part, "tokens")
        export(tmp_path / part, params("q8_0", lora="f16", lora_base="q8_0"))
    for path in sorted((tmp_path / "one/gguf").iterdir()):
        assert (tmp_path / "two/gguf" / path.name).read_bytes() == path.read_bytes(), path.name
        assert str(tmp_path).encode() not in path.read_bytes()
        assert str(llama).encode() not in path.read_bytes()
