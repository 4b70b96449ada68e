import re

import pytest

from retune.use.overrides import apply_overrides, set_value
from stages.core.errors import StageError

PARAMS = """\
# the head
train: # section
  rate: 2e-4 # per step
  steps: null
  modules: [q, v]
data:
  - a
mixed:
  - source: a
    rows: null # all
"""


def test_override_changes_one_value_and_keeps_every_other_byte():
    values, text = apply_overrides(PARAMS, ["train.rate=0.5"])
    assert values["train"]["rate"] == 0.5
    assert text == PARAMS.replace("2e-4", "0.5 ")


@pytest.mark.parametrize(
    ("value", "found"),
    [("3", 3), ("3e-3", 0.003), ("null", None), ("[q]", ["q"]), ("'3'", "3"), ("true", True), ("a: b", {"a": "b"})],
)
def test_override_is_read_as_yaml_as_dvc_reads_it(value, found):
    values, text = apply_overrides(PARAMS, [f"train.steps={value}"])
    assert values["train"]["steps"] == found
    assert apply_overrides(text, [])[0] == values


def test_override_of_an_item_of_a_list_names_it_by_its_number():
    values, text = apply_overrides(PARAMS, ["mixed.0.rows=100"])
    assert values["mixed"] == [{"source": "a", "rows": 100}]
    assert text.replace("100", "null").split() == PARAMS.split()


def test_null_is_written_as_null():
    assert "rate: null # per step" in " ".join(apply_overrides(PARAMS, ["train.rate=null"])[1].split())


def test_no_override_keeps_the_text():
    assert apply_overrides(PARAMS, [])[1] == PARAMS


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.rte=1", "did you mean train.rate"),
        ("rate=1", "did you mean train.rate"),
        ("train=1", "no such param"),
        ("train.rate.deep=1", "no such param"),
        ("mixed.1.rows=1", "did you mean mixed.0.rows"),
        ("mixed.rows=1", "did you mean mixed.0.rows"),
        ("mixed.x.rows=1", "no such param"),
        ("train.rate", "write it as section.key=value"),
        ("train.rate=[1", "not YAML"),
    ],
)
def test_override_that_names_nothing_is_refused_with_what_is_meant(override, message):
    with pytest.raises(StageError, match=re.escape(message)):
        apply_overrides(PARAMS, [override])


def test_override_adds_a_key_where_the_keys_are_the_users():
    values, text = apply_overrides("audit:\n  gguf:\n    q8_0: {a: 1}\n", ["audit.gguf.q2_k={max_kl_divergence: 0.5}"])
    assert values == {"audit": {"gguf": {"q8_0": {"a": 1}, "q2_k": {"max_kl_divergence": 0.5}}}}
    assert text.startswith("audit:\n  gguf:\n    q8_0: {a: 1}\n    q2_k:")


@pytest.mark.parametrize("override", ["audit.gguf.q8_0.b=1", "audit.b=1", "train.lora.x=1", "audit.gguf.q2_k.a=1"])
def test_override_adds_no_key_elsewhere(override):
    with pytest.raises(StageError, match="no such param"):
        apply_overrides("audit:\n  gguf:\n    q8_0: {a: 1}\ntrain:\n  lora: {r: 1}\n", [override])


def test_set_value_does_not_add_keys():
    tree = {"a": {"b": 1}}
    with pytest.raises(StageError):
        set_value(tree, "a.c", 2)
    assert tree == {"a": {"b": 1}}
