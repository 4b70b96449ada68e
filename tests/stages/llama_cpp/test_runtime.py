from pathlib import Path

import numpy as np
import pytest

from stages.core.errors import StageError
from stages.gguf_export.convert import finish_conversion, outtype, start_conversion
from stages.gguf_export.folder_tensors import read_weights
from stages.llama_cpp.runtime import Model
from stages.tokenization.exportable import pretokenizer as rules
from tests.stages.gguf_export.support.models_in_small import LLAMA_3_TEMPLATE, make_merged
from tests.stages.gguf_export.support.tokenizers_in_small import save, split_by, train, write_vocabulary


@pytest.mark.slow
def test_logits_and_greedy_answers_are_pytorchs(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = save(train(split_by(rules.LLAMA_3)), tmp_path / "tokenizer", LLAMA_3_TEMPLATE)
    make_merged(tmp_path / "merged", tokenizer)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert outtype(read_weights(tmp_path / "merged")) == "bf16"
    process = start_conversion(tmp_path / "merged", tmp_path / "f32.gguf", "f32", "small")
    finish_conversion(process, tmp_path / "f32.gguf")
    draw = np.random.default_rng(1)
    ids = [tokenizer.bos_token_id, *draw.integers(0, 1000, 700).tolist()][:511]
    wanted = np.zeros(len(ids), dtype=np.bool_)
    wanted[[0, 1, 100, 255, 256, 509, 510]] = True
    with torch.inference_mode():
        theirs = model(input_ids=torch.tensor([ids])).logits[0].numpy()
    with Model(tmp_path / "f32.gguf", context=512, threads=2) as file:
        ours = file.logits(ids, wanted)
        assert ours.shape == (7, len(tokenizer))
        assert np.abs(ours - theirs[wanted]).max() < 2e-3 * np.abs(theirs[wanted]).max()
        assert np.array_equal(file.logits(ids, wanted), ours)
        answer = list(file.generate(ids[:20], 8))
        with torch.inference_mode():
            expected = model.generate(torch.tensor([ids[:20]]), max_new_tokens=8, do_sample=False)[0, 20:].tolist()
        assert answer == expected
        drawn = [list(file.generate(ids[:20], 8, temperature=1.5, min_p=0.01, seed=seed)) for seed in (1, 1, 2)]
        assert drawn[0] == drawn[1] != drawn[2]
        assert list(file.generate(ids[:20], 8, temperature=1.5, min_p=1.0)) == answer


def test_several_steps_of_one_sequence_give_the_logits_of_one_step(tmp_path: Path) -> None:
    write_vocabulary(tmp_path / "a.gguf", train(split_by(rules.LLAMA_3), size=400), "llama-bpe")
    with Model(tmp_path / "a.gguf", context=512, threads=1) as model:
        model.step = 7
        parts = model.logits(list(range(40)), np.ones(40, dtype=np.bool_))
        model.step = 512
        assert np.array_equal(parts, model.logits(list(range(40)), np.ones(40, dtype=np.bool_)))


@pytest.mark.parametrize("kept", [0, 100, 100_000])
def test_file_that_is_cut_off_does_not_load(tmp_path: Path, kept: int) -> None:
    write_vocabulary(tmp_path / "a.gguf", train(split_by(rules.LLAMA_3), size=4000), "llama-bpe")
    data = (tmp_path / "a.gguf").read_bytes()
    assert len(data) > kept
    (tmp_path / "cut.gguf").write_bytes(data[:kept])
    with pytest.raises(StageError, match=r"llama\.cpp does not load cut\.gguf: .+"):
        Model(tmp_path / "cut.gguf", context=256, threads=1)
