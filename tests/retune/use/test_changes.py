from retune.use.changes import compare_params, find_runs


def test_differences_tell_old_and_new_at_any_depth():
    old = {"a": {"b": {"c": 1}, "d": None}, "e": [1]}
    assert compare_params(old, {"a": {"b": {"c": 2}}, "e": [1], "f": None}) == {
        "a.b.c": [1, 2],
        "f": [None, None],
        "a.d": [None, None],
    }


def test_differences_within_a_list_of_mappings_are_told_by_number():
    old = {"a": [{"b": 1}], "c": []}
    assert compare_params(old, {"a": [{"b": 2}, {"b": 3}], "c": []}) == {"a.0.b": [1, 2], "a.1.b": [None, 3]}


def test_use_says_which_stages_will_run(toy):
    from retune.project import dvc_status

    (toy / "params.yaml").write_text("words:\n  least: 3\n")
    assert find_runs(toy, set(dvc_status(toy))) == (["words"], ["count"])
