import pyarrow as pa
import pytest

from stages.contracts.tokens import SCHEMA
from stages.training.batches import flatten_rows, make_batch
from stages.training.token_rows import TokenRows

IDS = [[10, 11, 12], [20, 21], [30, 31, 32, 33]]
LABELS = [[-100, 11, 12], [20, 21], [-100, -100, 32, 33]]
ROWS = TokenRows(pa.table([["a", "b", "c"], IDS, LABELS], schema=SCHEMA))

pytestmark = pytest.mark.slow


def lists(batch: dict) -> dict[str, list]:
    return {name: value.tolist() for name, value in batch.items()}


def test_padded_batch_fills_on_the_right_without_labels() -> None:
    batch = make_batch(ROWS, "padded", [[2], [1]], 9, None)
    assert batch.rows == [2, 1]
    assert batch.labelled == 3
    assert lists(batch.inputs) == {
        "input_ids": [[30, 31, 32, 33], [20, 21, 9, 9]],
        "labels": [[-100, -100, 32, 33], [20, 21, -100, -100]],
        "attention_mask": [[1, 1, 1, 1], [1, 1, 0, 0]],
    }


def test_flat_batch_restarts_positions_and_predicts_nothing_over_a_boundary() -> None:
    batch = make_batch(ROWS, "flattened", [[0], [1], [2]], 9, None)
    assert batch.labelled == 5
    assert lists(batch.inputs) == {
        "input_ids": [[10, 11, 12, 20, 21, 30, 31, 32, 33]],
        # the first token of the second conversation has a label of its own in the data: the first one would predict it
        "labels": [[-100, 11, 12, -100, 21, -100, -100, 32, 33]],
        "position_ids": [[0, 1, 2, 0, 1, 0, 1, 2, 3]],
        "packed_seq_lengths": [3, 2, 4],
    }


def test_packed_batch_is_filled_to_its_length_with_a_conversation_of_its_own() -> None:
    batch = make_batch(ROWS, "packed", [[0, 1], [2]], 9, 6)
    assert batch.rows == [0, 1, 2]
    given = lists(batch.inputs)
    assert given["input_ids"] == [[10, 11, 12, 20, 21, 30, 31, 32, 33, 9, 9, 9]]
    assert given["labels"] == [[-100, 11, 12, -100, 21, -100, -100, 32, 33, -100, -100, -100]]
    assert given["position_ids"] == [[0, 1, 2, 0, 1, 0, 1, 2, 3, 0, 1, 2]]
    assert given["packed_seq_lengths"] == [3, 2, 4, 3]


def test_packs_longer_than_their_length_are_refused() -> None:
    with pytest.raises(ValueError, match="9 tokens do not fit into 8"):
        flatten_rows(ROWS, [0, 1, 2], 9, 8)
