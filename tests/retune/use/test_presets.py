from pathlib import Path
from typing import Any

import pytest

from retune.use.overrides import apply_overrides
from retune.use.params_text import leaves, read_values
from retune.use.presets import (
    BUILDS_ON,
    find_preset,
    list_presets,
    read_comments,
    read_preset,
    read_purpose,
    write_preset,
)
from stages.check import problems, read_sections
from stages.core.errors import StageError
from tests.project import ROOT

WHOLE = """\
# All of it.
train:
  steps: 60 # a demo
  learning_rate: 2e-4
  lora:
    r: 16
    target_modules: [q, v]
audit:
  gguf:
    q8_0: {max_kl_divergence: 0.01, min_top1_agreement: 0.97}
fetch_data:
  sources:
  - source: a
    revision: null
  limit: null
"""
NAMES = list_presets(ROOT)
RECIPE = "llama-3.2-3b-finetome"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets/whole.yaml").write_text(WHOLE)
    return tmp_path


def write_part(root: Path, text: str, name: str = "part") -> str:
    (root / f"presets/{name}.yaml").write_text(f"# Part.\n{BUILDS_ON}: whole\n{text}")
    return name


@pytest.mark.parametrize("name", NAMES)
def test_preset_is_right(name: str) -> None:
    assert problems(read_preset(ROOT, name), ROOT) == []


@pytest.mark.parametrize("name", NAMES)
def test_preset_is_short_and_says_what_it_is_for(name: str) -> None:
    path = find_preset(ROOT, name)
    lines = {RECIPE: 140, "demo": 60}.get(name, 30)
    assert len(path.read_text(encoding="utf-8").splitlines()) <= lines
    assert len(read_purpose(path)) > 20


@pytest.mark.parametrize("name", [name for name in NAMES if name != RECIPE])
def test_preset_that_builds_on_the_recipe_says_only_what_differs(name: str) -> None:
    text = find_preset(ROOT, name).read_text(encoding="utf-8")
    stated = read_values(text)
    assert stated.pop(BUILDS_ON) == RECIPE
    recipe = find_preset(ROOT, RECIPE).read_text(encoding="utf-8")
    whole, words = leaves(read_values(recipe)), read_comments(recipe) | read_comments(text)
    same = [key for key, value in leaves(stated).items() if whole[key] == value and ".sources." not in key]
    # a key may stand there for what is said of it, or to be rid of what the recipe says
    assert [key for key in same if key not in words] == []


def test_params_as_shipped_are_what_use_demo_writes() -> None:
    assert (ROOT / "params.yaml").read_text(encoding="utf-8") == write_preset(ROOT, "demo")


@pytest.mark.parametrize("name", NAMES)
def test_params_of_a_preset_have_the_sections_of_the_stages_in_their_order(name: str) -> None:
    assert list(read_preset(ROOT, name)) == list(read_sections())


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("train:\n  steps: 7\n", {"train.steps": 7}),
        ("train: {steps: null, lora: {r: 8}}\n", {"train.steps": None, "train.lora.r": 8}),
        ("train:\n  lora:\n    target_modules: [k]\n", {"train.lora.target_modules": ["k"]}),
        ("fetch_data:\n  sources:\n  - source: b\n", {"fetch_data.sources.0.source": "b"}),
        ("audit:\n  gguf:\n    q4_0: {a: 1}\n", {"audit.gguf.q4_0.a": 1}),
        ("", {}),
    ],
)
def test_part_changes_what_it_names_and_nothing_else(root: Path, text: str, changed: dict[str, Any]) -> None:
    whole, part = leaves(read_values(WHOLE)), leaves(read_preset(root, write_part(root, text)))
    assert {key: value for key, value in part.items() if whole.get(key, "no") != value} == changed


def test_list_and_mapping_with_keys_of_the_user_are_replaced_whole(root: Path) -> None:
    text = "audit:\n  gguf:\n    q4_0: {a: 1}\nfetch_data:\n  sources:\n  - source: b\n"
    part = read_preset(root, write_part(root, text))
    assert part["audit"]["gguf"] == {"q4_0": {"a": 1}}
    assert part["fetch_data"] == {"sources": [{"source": "b"}], "limit": None}


def test_keys_stand_in_the_order_of_the_whole_one_with_the_parts_own_words(root: Path) -> None:
    write_part(root, "fetch_data:\n  limit: 5 # a dry run\ntrain:\n  learning_rate: 1e-3 # high\n")
    text = write_preset(root, "part")
    assert text.startswith("# Part.\n")
    assert list(read_values(text)) == ["train", "audit", "fetch_data"]
    for line in ("  steps: 60 # a demo", "  learning_rate: 1e-3 # high", "  limit: 5 # a dry run"):
        assert f"\n{line}\n" in text


def test_words_about_a_value_go_with_it(root: Path) -> None:
    assert "a demo" not in write_preset(root, write_part(root, "train:\n  steps: 7\n"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train:\n  stepps: 7\n", "train.stepps: no such param; did you mean train.steps?"),
        ("train:\n  r: 7\n", "did you mean train.lora.r?"),
        ("trian:\n  steps: 7\n", "trian: no such param"),
        ("train:\n  lora: {rr: 1}\n", "train.lora.rr: no such param; did you mean train.lora.r or"),
    ],
)
def test_unknown_key_is_refused_with_what_is_meant(root: Path, text: str, said: str) -> None:
    write_part(root, text)
    with pytest.raises(StageError, match=r"part\.yaml") as refused:
        read_preset(root, "part")
    assert said in str(refused.value)


def test_all_unknown_keys_are_said_at_once(root: Path) -> None:
    write_part(root, "train:\n  a: 7\naudit:\n  b: 7\n")
    with pytest.raises(StageError, match=r"(?s)train\.a.*audit\.b"):
        read_preset(root, "part")


def test_preset_that_builds_on_one_that_is_not_whole_is_refused(root: Path) -> None:
    write_part(root, "")
    (root / "presets/third.yaml").write_text(f"# Third.\n{BUILDS_ON}: part\n")
    with pytest.raises(StageError, match="part, which builds on whole"):
        read_preset(root, "third")


@pytest.mark.parametrize(("name", "said"), [("whle", "did you mean whole"), ("x", "there are: ")])
def test_unknown_preset_is_answered_with_those_that_there_are(root: Path, name: str, said: str) -> None:
    with pytest.raises(StageError, match=said):
        read_preset(root, name)
    (root / "presets/part.yaml").write_text(f"# Part.\n{BUILDS_ON}: {name}\n")
    with pytest.raises(StageError, match=said):
        read_preset(root, "part")


def test_override_of_a_preset_keeps_the_rest_of_its_text() -> None:
    text = write_preset(ROOT, RECIPE)
    for key in ("train.steps=7", "gguf.lora=f32", "report.title=Another"):
        changed = apply_overrides(text, [key])[1]
        assert len(set(changed.splitlines()) - set(text.splitlines())) == 1, key
