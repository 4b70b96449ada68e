import pytest

from retune.use.meanings import COLUMN, WIDTH, comment_in, explain, find_meaning, first_sentence, key_lines
from retune.use.params_text import read_tree
from retune.use.presets import write_preset
from tests.project import ROOT

TEXT = """\
train:
  steps: 60
  lora: {r: 16}
fetch_data:
  sources:
  - source: a # mine
    revision: null
  - source: b
  limit: null
"""
STEPS = "Optimizer steps to train; null: `epochs` says how long"


def recipe_keys() -> list[tuple[str, ...]]:
    return [keys for keys, _ in key_lines(read_tree(write_preset(ROOT, "llama-3.2-3b-finetome")))]


@pytest.mark.parametrize(
    "keys", [keys for keys in recipe_keys() if keys[:2] != ("audit", "gguf") or len(keys) == 2], ids=".".join
)
def test_every_param_has_a_meaning_that_fits_beside_it(keys: tuple[str, ...]) -> None:
    meaning = find_meaning(keys)
    assert meaning, "write a docstring under the field"
    assert len(meaning) <= WIDTH - COLUMN - 2, (
        "the first sentence under the field stands in params.yaml: make it shorter"
    )


@pytest.mark.parametrize("keys", [("audit", "gguf", "q8_0"), ("train", "no"), ("no",), ("train", "steps", "no")])
def test_key_of_the_users_or_an_unknown_one_has_none(keys: tuple[str, ...]) -> None:
    assert find_meaning(keys) is None


def test_values_that_a_param_may_have_are_said() -> None:
    assert (find_meaning(("train", "layout")) or "").endswith(" (padded, flattened, packed)")


def test_explain_puts_the_meaning_beside_a_key_or_above_its_own_words() -> None:
    text = explain(TEXT)
    assert f"  steps: 60                           # {STEPS}\n" in text
    assert f"  # {find_meaning(('fetch_data', 'sources', '0', 'source'))}\n  - source: a # mine\n" in text
    assert "  - source: b\n" in text, "a list's first item speaks for all"
    assert f"{'  lora: {r: 16}':<37} # The shape of the adapter\n" in text
    assert read_tree(text) == read_tree(TEXT)
    assert explain(text) == text


def test_explain_of_some_params_leaves_what_has_a_comment() -> None:
    text = explain(TEXT, ["fetch_data.sources", "train.steps"])
    assert "  - source: a # mine\n    revision: null                    # The commit" in text
    assert STEPS in text
    assert text.splitlines()[0] == "train:"
    assert "  limit: null\n" in text


@pytest.mark.parametrize(
    ("line", "comment"),
    [
        ("a: 1 # one", "one"),
        ("a: 1", ""),
        ("a: 'b # c'", ""),
        ('a: "b \\" # c" # d', "d"),
        ("a: b#c", ""),
        ("# all", "all"),
    ],
)
def test_comment_in_a_line_is_not_looked_for_in_its_value(line: str, comment: str) -> None:
    assert comment_in(line) == comment


def test_first_sentence_ends_at_a_full_stop_and_not_at_a_files_name() -> None:
    assert first_sentence("What README.md\n    says. More.") == "What README.md says"
