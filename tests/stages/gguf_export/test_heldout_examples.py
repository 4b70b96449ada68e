from pathlib import Path

import pyarrow as pa
import pytest

from stages.core.errors import StageError
from stages.gguf_export.heldout_examples import Ending, Example, find_ending, questions, read_examples
from stages.gguf_export.quality import count_exact
from tests.arrow_files import write_arrow

ROW = Example("r", [1, 10, 11, 20, 21, 9, 12, 22, 9], [-100, -100, -100, 20, 21, 9, -100, 22, 9])
TURN = Ending(frozenset({9}))


def test_spans_are_the_labelled_runs_and_targets_their_tokens() -> None:
    assert ROW.spans() == [(3, 6), (7, 9)]
    assert ROW.targets().tolist() == [20, 21, 9, 22, 9]
    assert ROW.prediction_mask().nonzero()[0].tolist() == [2, 3, 4, 6, 7]


def test_questions_hold_the_history_and_the_answer_without_its_end() -> None:
    asked = questions([ROW], TURN, 5)
    assert [(question.prompt, question.gold, question.limit, question.offset) for question in asked] == [
        ([1, 10, 11], [20, 21], 3, 0),
        ([1, 10, 11, 20, 21, 9, 12], [22], 2, 3),
    ]
    assert len(questions([ROW, ROW], TURN, 3)) == 3


def test_ending_is_the_control_token_that_every_answer_ends_with() -> None:
    assert find_ending([ROW], frozenset({9}), [9, 7], 9) == TURN


def test_ending_without_a_control_token_is_the_text_that_closes_an_answer() -> None:
    row = Example("r", [10, 20, 31, 32, 10, 20, 21, 31, 32], [-100, 20, 31, 32, -100, 20, 21, 31, 32])
    assert find_ending([row], frozenset(), [31, 32, 33], None) == Ending(frozenset(), (31, 32))


def test_several_control_tokens_end_answers_but_none_that_stands_within_one() -> None:
    first, last = (
        Example("a", [1, 20, 8, 12, 21, 9], [-100, 20, 8, -100, 21, 9]),
        Example("b", [1, 30, 9], [-100, 30, 9]),
    )
    assert find_ending([first, last], frozenset({8, 9}), [], 9) == Ending(frozenset({8, 9}))
    assert [question.gold for question in questions([first, last], Ending(frozenset({8, 9})), 9)] == [[20], [21], [30]]
    thinks = Example("c", [1, 40, 8, 41, 9], [-100, 40, 8, 41, 9])
    found = find_ending([first, thinks], frozenset({8, 9}), [], 9)
    assert found == Ending(frozenset({9}))
    assert [question.gold for question in questions([thinks], found, 9)] == [[40, 8, 41]]


def test_answer_whose_end_is_not_trained_is_asked_whole_and_is_right_when_the_model_ends_it() -> None:
    row = Example("r", [1, 20, 21, 8, 12, 22, 9], [-100, 20, 21, -100, -100, 22, 9])
    ending = find_ending([row], frozenset({8, 9}), [], 9)
    assert ending == TURN
    first, last = questions([row], ending, 9)
    assert (first.prompt, first.gold, first.limit) == ([1], [20, 21], 3)
    assert last.gold == [22]
    assert count_exact([[20, 21, 9]], [first], ending, ending.controls) == 1
    assert count_exact([[20, 21, 8]], [first], ending, ending.controls) == 0
    assert count_exact([[20, 21]], [first], ending, ending.controls) == 0


def test_rows_of_answers_without_a_trained_end_still_end_with_the_turns_own_token() -> None:
    row = Example("r", [1, 20, 21, 8, 12, 22, 9], [-100, 20, 21, -100, -100, -100, -100])
    assert find_ending([row], frozenset({8, 9}), [], 9) == TURN


def test_answers_without_a_common_end_are_refused() -> None:
    with pytest.raises(StageError, match="nothing would stop"):
        find_ending([ROW], frozenset(), [5, 6], None)


def test_rows_are_taken_from_train_only_where_nothing_is_held_out(tmp_path: Path) -> None:
    schema = pa.schema([("row_id", pa.string()), ("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))])
    rows = [{"row_id": name, "input_ids": ROW.ids, "labels": ROW.labels} for name in "abc"]
    unlabelled = {"row_id": "x", "input_ids": [1, 2], "labels": [-100, -100]}
    for split, held in (("train", rows), ("heldout", [unlabelled])):
        write_arrow(tmp_path / f"{split}.arrow", pa.Table.from_pylist(held, schema=schema))
    split, found = read_examples(tmp_path, 2)
    assert (split, [example.row_id for example in found]) == ("train", ["a", "b"])
    write_arrow(tmp_path / "heldout.arrow", pa.Table.from_pylist([unlabelled, *rows], schema=schema))
    assert read_examples(tmp_path, 9)[0] == "heldout"
    write_arrow(tmp_path / "train.arrow", pa.Table.from_pylist([], schema=schema))
    write_arrow(tmp_path / "heldout.arrow", pa.Table.from_pylist([], schema=schema))
    with pytest.raises(StageError, match="no row with an answer"):
        read_examples(tmp_path, 9)
