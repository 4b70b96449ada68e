import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from stages.arrow.tables import read_parquet
from stages.contracts import evaluation as contract
from stages.contracts.adapter import TRAINING
from stages.contracts.tokens import SCHEMA, answers, read_tokens
from stages.core.errors import StageError
from stages.core.files import read_json, write_json
from stages.core.params import Runtime
from stages.evaluate import EvaluateParams, evaluate, read_stop_rule, scores
from stages.evaluation.greedy import StopRule, cut_at_difference
from stages.evaluation.measures import ModelMeasures, split_answers
from tests.arrow_files import write_arrow
from tests.stages.training.support.tiny import RUNTIME

PARAMS = EvaluateParams(rows=None, answer_rows=100, max_new_tokens=12, exact_match=True)
STOP = StopRule(ids=frozenset({1}), sequence=[1], longest=4)


def test_answer_ends_at_its_end_of_turn_its_length_or_a_run_of_ids() -> None:
    assert STOP.after([5, 1])
    assert not STOP.after([1, 5, 6])
    assert STOP.after([5, 6, 7, 8])
    spelled = StopRule(ids=frozenset(), sequence=[7, 8], longest=9)
    assert spelled.after([5, 7, 8])
    assert not spelled.after([5, 8])


@pytest.mark.parametrize(
    ("reference", "chosen", "said"),
    [([5, 6, 1], [5, 6, 1], [5, 6, 1]), ([5, 6, 1], [5, 9, 1], [5, 9]), ([5], [4], [4])],
)
def test_forward_pass_is_known_up_to_its_first_other_token(
    reference: list[int], chosen: list[int], said: list[int]
) -> None:
    assert cut_at_difference(reference, chosen) == said


def test_turns_that_the_forward_pass_has_answered_are_not_generated() -> None:
    ids = [0, 9, 5, 6, 1, 9, 7, 1, 9, 5, 5, 5, 5, 5, 1]
    spans = [(2, 5), (6, 8), (9, 15)]
    choices = [5, 6, 1, 8, 1, 5, 5, 5, 5, 5, 1]
    found = ModelMeasures([], [])
    open_answers = list(split_answers(3, 0, ids, spans, choices, STOP, found))
    # the first turn was said whole, the last as far as an answer may go; the second went another way
    assert found.answers == {(3, 0): [5, 6, 1], (3, 2): [5, 5, 5, 5]}
    assert [(answer.turn, answer.prompt, answer.said) for answer in open_answers] == [(1, 6, [8])]


def test_scores_of_nothing_are_null() -> None:
    nothing = scores(ModelMeasures([], []), 0, pa.chunked_array([], pa.bool_()))
    assert nothing == {"loss": None, "perplexity": None, "token_accuracy": None, "exact_match": None}
    found = scores(ModelMeasures([2.0, 4.0], [1, 2]), 6, pa.chunked_array([[True, False, None]]))
    assert found == {"loss": 1.0, "perplexity": math.e, "token_accuracy": 0.5, "exact_match": 0.5}


def test_stop_rule_takes_the_bases_own_ends_too(tmp_path: Path) -> None:
    write_json(tmp_path / "summary.json", {"end_of_turn": {"text": "x", "ids": [9], "special": True, "inner": ""}})
    write_json(tmp_path / "generation_config.json", {"eos_token_id": [7, 8]})
    write_json(tmp_path / "config.json", {"eos_token_id": 7})
    assert read_stop_rule(tmp_path, tmp_path, PARAMS) == StopRule(frozenset({7, 8, 9}), [9], 12)
    write_json(
        tmp_path / "summary.json", {"end_of_turn": {"text": "</s>", "ids": [3, 4], "special": False, "inner": ""}}
    )
    assert read_stop_rule(tmp_path, tmp_path, PARAMS).ids == {7, 8}


def measured(
    root: Path, target: Path, adapter: str = "adapter", tokens: str = "tokens", **runtime: Any
) -> dict[str, Any]:
    target.mkdir(exist_ok=True)
    evaluate(
        root / "base",
        root / adapter,
        root / tokens,
        target / contract.METRICS,
        target / contract.ANSWERS,
        PARAMS,
        Runtime.model_validate({**RUNTIME, **runtime}),
    )
    found: dict[str, Any] = read_json(target / contract.METRICS)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("adapter", "tokens"), [("adapter", "tokens"), ("added", "tokens_added")])
def test_measures_equal_transformers_own_loss_and_generate(
    trained: Path, tmp_path: Path, adapter: str, tokens: str
) -> None:
    import torch
    from peft import PeftModel

    from stages.models.base_model import load_base

    metrics = measured(trained, tmp_path / "out", adapter, tokens)
    table = read_parquet(tmp_path / "out" / contract.ANSWERS)
    assert table.schema == contract.ANSWERS_SCHEMA
    training = read_json(trained / adapter / TRAINING)
    plain = load_base(
        trained / "base", load_in_4bit=True, dtype="float32", place="cpu", rows=training["embedding_rows"]
    )
    model = PeftModel.from_pretrained(plain, trained / adapter).eval()
    end = read_json(trained / tokens / "summary.json")["end_of_turn"]["ids"][0]
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(trained / tokens / "tokenizer" / "tokenizer.json"))
    loss, count, said = 0.0, 0, []
    with torch.no_grad():
        for row in read_tokens(trained / tokens / "heldout.arrow").to_pylist():
            ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
            trained_on = int((labels != -100).sum())
            loss += float(model(input_ids=ids, labels=labels).loss) * trained_on
            count += trained_on
            for start, _ in answers(row["input_ids"], row["labels"]):
                prompt = ids[:, :start]
                given = {"attention_mask": torch.ones_like(prompt), "pad_token_id": 4, "do_sample": False}
                out = model.generate(input_ids=prompt, max_new_tokens=12, eos_token_id=[end, 1], **given)
                said.append(tokenizer.decode(out[0, start:].tolist(), skip_special_tokens=True).strip())
    assert metrics["tokens"] == count
    assert metrics["rows"] == 10
    assert metrics["answers"] == len(said)
    assert math.isclose(metrics["tuned"]["loss"], loss / count, rel_tol=1e-5)
    assert table["tuned_answer"].to_pylist() == said
    assert metrics["tuned"]["loss"] < metrics["base"]["loss"] - 1
    assert metrics["tuned"]["exact_match"] == sum(table["tuned_match"].to_pylist()) / len(said)


@pytest.mark.slow
def test_batch_size_changes_no_answer_and_no_number_beyond_rounding(trained: Path, tmp_path: Path) -> None:
    one = measured(trained, tmp_path / "one", evaluation_batch=1)
    many = measured(trained, tmp_path / "many", evaluation_batch=7)
    for name in ("base", "tuned"):
        for key, value in one[name].items():
            assert math.isclose(value, many[name][key], rel_tol=1e-5), (name, key)
    assert read_parquet(tmp_path / "one" / contract.ANSWERS).equals(read_parquet(tmp_path / "many" / contract.ANSWERS))


@pytest.mark.slow
def test_no_heldout_row_gives_nulls_not_an_error(trained: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(trained / "tokens", tmp_path / "tokens")
    write_arrow(tmp_path / "tokens" / "heldout.arrow", SCHEMA.empty_table())
    for name in ("base", "adapter"):
        (tmp_path / name).symlink_to(trained / name)
    metrics = measured(tmp_path, tmp_path / "out")
    assert metrics["tuned"] == {"loss": None, "perplexity": None, "token_accuracy": None, "exact_match": None}
    assert (metrics["rows"], metrics["tokens"], metrics["answers"]) == (0, 0, 0)
    assert read_parquet(tmp_path / "out" / contract.ANSWERS).num_rows == 0


@pytest.mark.slow
def test_adapter_of_another_base_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="another base"):
        measured(trained, tmp_path / "out", adapter="added_tied", tokens="tokens_added")
