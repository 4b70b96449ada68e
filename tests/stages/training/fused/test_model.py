"""The fused training forward equals the model's own: losses and LoRA gradients, on every kind of base that it takes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")

from stages.training.fused.model import attach, find_labelled_rows  # noqa: E402
from stages.training.fused.support import find_unsupported  # noqa: E402
from tests.project import ROOT  # noqa: E402
from tests.stages.training.fused.support.fused_models import (  # noqa: E402
    LENGTHS,
    batch,
    furthest,
    gradients,
    plain_loss,
    small_model,
)

ITEMS = 37
EXACT = 2e-6
"""Relative, in float64: the models themselves take the root mean square and the rotary angles in float32."""
SINGLE = 2e-4
"""Relative, in float32, where sums are added up in another order."""


def fused_loss(model: Any, ids: Any, labels: Any, items: int = ITEMS, **more: Any) -> Any:
    return model(
        input_ids=ids[None], labels=labels[None], packed_seq_lengths=LENGTHS, num_items_in_batch=items, **more
    ).loss


def compare(model: Any, tolerance: float, **options: Any) -> None:
    """Attach and compare a batch's loss and gradients with those from before."""
    ids, labels = batch()
    expected = plain_loss(model, ids, labels, ITEMS)
    expected.backward()
    wanted = gradients(model)
    assert attach(model, **options) is None
    found = fused_loss(model, ids, labels)
    found.backward()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=tolerance)
    assert furthest(gradients(model), wanted) < tolerance


@pytest.mark.parametrize("kept", [None, 0, 1])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_fused_any_base_equals_plain(kind: str, tied: bool, kept: int | None) -> None:
    compare(small_model(kind, tied=tied), EXACT, kept_layers=kept, loss_rows=16)


def test_fused_step_written_through_a_pointer_is_seen() -> None:
    """As bitsandbytes' optimizers write on a GPU: the parameter's version stays."""
    ids, labels = batch()
    model, twin = small_model("llama", tied=True), small_model("llama", tied=True)
    assert attach(model) is None
    fused_loss(model, ids, labels).backward()
    for one in (model, twin):
        for name, part in one.named_parameters():
            if "lora_" in name:
                version = part._version
                written = part.detach().numpy()
                written += 0.05
                assert part._version == version
    expected = float(plain_loss(twin, ids, labels, ITEMS).detach())
    assert float(fused_loss(model, ids, labels).detach()) == pytest.approx(expected, rel=EXACT)


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("kept", [None, 0])
def test_fused_nf4_base_equals_plain(kept: int | None, resident: bool) -> None:
    compare(small_model(dtype=torch.float32, four=True), SINGLE, kept_layers=kept, resident=resident)


def test_fused_float32_base_equals_plain() -> None:
    compare(small_model(dtype=torch.float32), SINGLE)


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["down_proj"], ["k_proj", "up_proj", "o_proj"]])
def test_fused_some_targets_equals_plain(targets: list[str]) -> None:
    compare(small_model(target_modules=targets), EXACT)


def test_fused_rslora_and_uneven_ranks_equals_plain() -> None:
    compare(small_model(use_rslora=True, rank_pattern={"k_proj": 2, "up_proj": 7}, alpha_pattern={"v_proj": 3}), EXACT)


def test_fused_trained_embedding_rows_equals_plain() -> None:
    compare(small_model(tied=False, trainable_token_indices={"embed_tokens": [3, 5]}), EXACT)


def test_fused_two_micro_batches_add_up_to_one() -> None:
    ids, labels = batch()
    model = small_model()
    assert attach(model) is None
    fused_loss(model, ids, labels).backward()
    wanted = gradients(model)
    cut = sum(LENGTHS[:2])
    for part, lengths in ((slice(0, cut), LENGTHS[:2]), (slice(cut, None), LENGTHS[2:])):
        model(
            input_ids=ids[None, part], labels=labels[None, part], packed_seq_lengths=lengths, num_items_in_batch=ITEMS
        ).loss.backward()
    assert furthest(gradients(model), wanted) < EXACT


def test_fused_after_an_optimizer_step_uses_the_new_adapter() -> None:
    ids, labels = batch()
    model = small_model()
    before = float(plain_loss(model, ids, labels, ITEMS).detach())
    assert attach(model) is None
    optimizer = torch.optim.AdamW((value for value in model.parameters() if value.requires_grad), lr=0.01)
    fused_loss(model, ids, labels).backward()
    optimizer.step()
    after = float(fused_loss(model, ids, labels).detach())
    assert after == pytest.approx(float(plain_loss(model, ids, labels, ITEMS).detach()), rel=EXACT)
    assert after < before - 0.01


def test_fused_changed_conversation_leaves_the_others_losses() -> None:
    ids, labels = batch()
    only_last = labels.clone()
    only_last[: -LENGTHS[-1]] = -100
    model = small_model()
    assert attach(model) is None
    one = float(fused_loss(model, ids, only_last).detach())
    changed = ids.clone()
    changed[: -LENGTHS[-1]] = (ids[: -LENGTHS[-1]] + 1) % 128
    assert float(fused_loss(model, changed, only_last).detach()) == one
    changed[-LENGTHS[-1]] = (ids[-LENGTHS[-1]] + 1) % 128
    assert float(fused_loss(model, changed, only_last).detach()) != one


def test_fused_loss_scale_scales_the_gradients() -> None:
    ids, labels = batch()
    model = small_model()
    assert attach(model) is None
    fused_loss(model, ids, labels).backward()
    wanted = {name: value * 1024 for name, value in gradients(model).items()}
    (fused_loss(model, ids, labels) * 1024).backward()
    assert furthest(gradients(model), wanted) < 1e-12


def test_fused_rows_from_the_collator_are_those_it_finds() -> None:
    ids, labels = batch()
    model = small_model()
    assert attach(model) is None
    given = fused_loss(model, ids, labels, labelled_rows=find_labelled_rows(labels, LENGTHS))
    assert float(given.detach()) == float(fused_loss(model, ids, labels).detach())


def test_labelled_rows_first_token_of_a_document_is_never_predicted() -> None:
    labels = torch.tensor([7, 7, -100, 7, 7, 7])
    assert find_labelled_rows(labels, [3, 1, 2]).tolist() == [0, 4]


def test_attached_model_in_evaluation_runs_as_before() -> None:
    ids, labels = batch()
    model = small_model().eval()
    before = model(input_ids=ids[None]).logits
    assert attach(model) is None
    assert torch.equal(model(input_ids=ids[None]).logits, before)
    model.train()
    assert torch.equal(model(input_ids=ids[None], labels=labels[None]).logits, before)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"lora_dropout": 0.1}, "dropout"),
        ({"modules_to_save": ["lm_head"]}, "head"),
        ({"trainable_token_indices": {"embed_tokens": [3], "lm_head": [3]}}, "head"),
    ],
)
def test_attach_unknown_adapter_says_why_and_changes_nothing(options: dict[str, Any], reason: str) -> None:
    model = small_model(tied=False, **options)
    usual = model.forward
    assert reason in (attach(model) or "")
    assert model.forward == usual


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"model_type": "gemma2"}, "gemma2"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "dynamic"),
        ({"attention_dropout": 0.1}, "dropout"),
        ({"sliding_window": 16}, "sliding"),
    ],
)
def test_attach_unknown_config_says_why(changed: dict[str, Any], reason: str) -> None:
    model = small_model()
    for name, value in changed.items():
        setattr(model.get_base_model().config, name, value)
    assert reason in (find_unsupported(model) or "")


def test_attach_unsloth_model_equals_its_own(tmp_path: Path) -> None:
    found = probe("fused_probe.py", "unsloth", str(tmp_path), OMP_NUM_THREADS="1", UNSLOTH_FORCE_CPU="1")
    assert found["reason"] is None
    assert found["loss"] == pytest.approx(found["own"], rel=SINGLE)
    assert found["furthest"] < SINGLE * 10


def test_kernels_interpreted_equal_plain_torch() -> None:
    for name, distance in probe("fused_probe.py", "kernels", TRITON_INTERPRET="1").items():
        assert distance < 1e-5, name


def probe(script: str, *arguments: str, **environment: str) -> dict[str, Any]:
    """What a script beside this file prints last, run in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.stages.training.fused.support.{script.removesuffix('.py')}", *arguments],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result
