"""Flat batches with Unsloth's patches live, in float32 on NF4, by layout_probe.py."""

import math
from typing import Any

import pytest

pytestmark = pytest.mark.slow

CHECKPOINTING = pytest.mark.parametrize("checkpointing", ["off", "unsloth"])


@CHECKPOINTING
def test_no_token_of_a_flat_batch_sees_another_conversation(layouts: dict[str, Any], checkpointing: str) -> None:
    moved = layouts[checkpointing]["apart"]
    # the second of five conversations had other tokens
    assert [part > 0.1 for part in moved["with"]] == [False, True, False, False, False]
    assert max(moved["with"][:1] + moved["with"][2:]) == 0.0
    # what the test would see if Unsloth lost the boundaries
    assert moved["without"][1] > 0.1


def test_model_that_does_not_keep_conversations_apart_is_found_before_training(layouts: dict[str, Any]) -> None:
    ours, without = layouts["blind"]
    assert ours == ""
    assert "sees the one before it" in without
    assert "set train.layout to padded" in without


@CHECKPOINTING
def test_loss_and_gradients_of_a_flat_batch_are_those_of_its_conversations(
    layouts: dict[str, Any], checkpointing: str
) -> None:
    found = layouts[checkpointing]["equal"]
    # found: 4e-8 of the loss, 4e-7 of the largest gradient
    assert math.isclose(found["together"], found["alone"], rel_tol=1e-6)
    assert found["gradient"] < 1e-5
    assert found["smallest"] > 1e-3


def test_packed_training_gives_the_model_our_labels_and_boundaries(layouts: dict[str, Any]) -> None:
    packed = layouts["packed"]
    assert len(packed["seen"]) == len(packed["wanted"]) == 3
    for given, wanted in zip(packed["seen"], packed["wanted"], strict=True):
        size = len(given["input_ids"][0])
        assert size == 2 * 256
        assert "attention_mask" not in given
        start, positions = 0, []
        for ids, labels, length in zip(wanted["ids"], wanted["labels"], given["packed_seq_lengths"], strict=False):
            assert length == len(ids)
            assert given["input_ids"][0][start : start + length] == ids
            assert given["labels"][0][start : start + length] == [-100, *labels[1:]]
            positions += range(length)
            start += length
        filling = given["packed_seq_lengths"][len(wanted["ids"]) :]
        assert filling == ([size - start] if size > start else [])
        assert given["labels"][0][start:] == [-100] * (size - start)
        assert given["position_ids"][0] == [*positions, *range(size - start)]
        # the mean is over the labelled tokens of the step, which here is one micro-batch
        assert given["num_items_in_batch"] == sum(label != -100 for labels in wanted["labels"] for label in labels[1:])


def test_packed_training_measures_the_heldout_loss(layouts: dict[str, Any]) -> None:
    assert len(layouts["packed"]["eval_loss"]) == 2
    assert all(math.isfinite(loss) for loss in layouts["packed"]["eval_loss"])
