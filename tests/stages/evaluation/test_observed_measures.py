from types import SimpleNamespace
from typing import Any

import pytest

from stages.core.asked_and_ran import Observation
from stages.evaluation.measures import ModelMeasures
from stages.evaluation.observed_measures import note_evaluation


class TinyModel:
    """What is asked of a model: its modules, and a parameter's device and dtype."""

    def __init__(self) -> None:
        self.value = SimpleNamespace(device=SimpleNamespace(type="cpu"), dtype="torch.float32")

    def parameters(self) -> list[Any]:
        return [self.value]

    def modules(self) -> list[Any]:
        return [self]

    def get_input_embeddings(self) -> Any:
        return SimpleNamespace(weight=self.value)


@pytest.mark.parametrize(("longest", "known"), [(3, True), (4, False)])
def test_measures_tell_how_many_rows_were_measured_and_answered(
    noted: dict[str, Observation], longest: int, known: bool
) -> None:
    answers = {(0, 0): [1, 2, 3], (0, 1): [1], (1, 0): [4]}
    tuned = ModelMeasures(loss=[0.0] * 5, correct=[0] * 5, answers=answers, largest_batch=2)
    note_evaluation(TinyModel(), tuned, 0.5, longest)
    assert {key: noted[f"evaluate.{key}"].ran for key in ("rows", "answer_rows", "exact_match")} == {
        "rows": 5,
        "answer_rows": 2,
        "exact_match": True,
    }
    assert noted["evaluate.max_new_tokens"].known is known
    assert (noted["runtime.evaluation_batch"].ran, noted["runtime.device"].ran) == (2, "cpu")
