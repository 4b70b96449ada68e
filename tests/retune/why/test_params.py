import pytest

from retune.why.params import compare_values, explain_command, explain_params

SOURCES = [{"source": "a", "limit": 1}, {"source": "b", "limit": None}]


@pytest.mark.parametrize(
    ("old", "new", "texts"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 2}}, ["s.a.b 1 -> 2"]),
        ({"a": True}, {"a": None}, ["s.a true -> null"]),
        ({"a": "x"}, {"a": "y"}, ['s.a "x" -> "y"']),
        ({"a": 1}, {"a": 1.0}, []),
        ({"a": [1, 2]}, {"a": [1]}, ["s.a [1, 2] -> [1]"]),
        (SOURCES, [SOURCES[0], {"source": "b", "limit": 5}], ["s[1].limit null -> 5"]),
        (SOURCES, SOURCES[:1], ["s[1] is gone"]),
        (SOURCES[:1], SOURCES, ['s[1] is new: {"source": "b", "limit": null}']),
        ({"a": {"b": 1}}, {"a": 3}, ['s.a {"b": 1} -> 3']),
        ({"a": "x" * 99}, {"a": "y"}, [f's.a "{"x" * 59}... -> "y"']),
    ],
)
def test_values_are_compared_leaf_by_leaf(old, new, texts):
    assert [cause.text for cause in compare_values("s", old, new)] == texts


def test_param_that_dvc_names_by_its_path_is_found(tmp_path):
    (tmp_path / "params.yaml").write_text("train: {lora: {r: 8}}\n")
    (cause,) = explain_params(tmp_path, "params.yaml", {"train.lora.r": "modified"}, {"train.lora.r": 16})
    assert cause.text == "train.lora.r 16 -> 8"


def test_params_file_that_is_gone_is_named(tmp_path):
    (cause,) = explain_params(tmp_path, "params.yaml", "deleted", {"train": {}})
    assert cause.text == "params.yaml is missing"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("python -m a --x 1", "python -m a --x 2", "`1` -> `2`"),
        ("python -m a --x 1", "python -m a", "`--x 1` is gone"),
        ("a  b", "a b", "other white space"),
    ],
)
def test_command_is_compared_word_by_word(old, new, said):
    assert explain_command(old, new).text == f"its command in dvc.yaml: {said}"
