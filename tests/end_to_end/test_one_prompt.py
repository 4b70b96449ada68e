"""One prompt with trained models: what `evaluate` says is what `retune chat`, the merged model and the file then answer. Fifteen minutes."""

from pathlib import Path

import pytest

from tests.bench.one_prompt import COMBINATIONS, Combination, measure

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("combination", COMBINATIONS, ids=lambda one: one.name)
def test_all_that_answer_begin_from_trainings_prompt_and_say_what_evaluate_says(
    combination: Combination, tmp_path: Path
) -> None:
    (found,) = measure(tmp_path, [combination], steps=600, questions=40)
    assert found.questions == 40
    assert set(found.prompts.values()) == {0}, found.prompts
    assert found.answers["chat"] <= 1
    assert found.answers["merged"] <= 2
    assert found.answers["file"] <= 2
    assert found.right["chat"] >= 20, "a model that has learned nothing proves nothing"
