import re
from pathlib import Path

import pytest

from flows.dag import downstream, read_dag, with_upstream

REPO = Path(__file__).parents[2]


def edges_of_dot(dot: str) -> tuple[set[str], set[tuple[str, str]]]:
    nodes = set(re.findall(r'^"([^"]+)";$', dot, re.MULTILINE))
    return nodes, set(re.findall(r'^"([^"]+)" -> "([^"]+)";$', dot, re.MULTILINE))


def edges_of(dag):
    return set(dag), {(up, stage) for stage, upstream in dag.items() for up in upstream}


@pytest.fixture
def ours(toy):
    (toy / "dvc.yaml").write_bytes((REPO / "dvc.yaml").read_bytes())
    return toy


def test_dag_of_this_project_equals_dvc_dag(ours, run_dvc):
    assert edges_of(read_dag(ours)) == edges_of_dot(run_dvc(ours, "dag", "--dot"))


def test_dag_of_this_project_leads_from_check_to_gate(ours):
    order = list(read_dag(ours))
    assert order[0] == "check"
    assert order[-1] == "gate"


def test_dag_of_a_toy_equals_dvc_dag(toy, run_dvc):
    assert edges_of(read_dag(toy)) == edges_of_dot(run_dvc(toy, "dag", "--dot"))


def test_dag_puts_every_stage_behind_its_upstream_in_the_order_of_the_file(toy):
    assert list(read_dag(toy)) == ["zeta", "alpha", "mid", "last", "apart"]


def test_dag_read_from_another_folder_has_the_names_that_dvc_takes_in_the_root(toy, monkeypatch):
    monkeypatch.chdir("/")
    assert read_dag(toy)["mid"] == ("zeta", "alpha")


def test_dag_of_a_broken_file_says_so(toy):
    (toy / "dvc.yaml").write_text("stages: [")
    with pytest.raises(ValueError, match=r"dvc\.yaml"):
        read_dag(toy)


def test_dag_of_a_circle_says_so(toy):
    (toy / "dvc.yaml").write_text(
        "stages:\n  a:\n    cmd: a\n    deps: [y]\n    outs: [x]\n  b:\n    cmd: b\n    deps: [x]\n    outs: [y]\n"
    )
    with pytest.raises(ValueError, match="both a dependency and an output"):
        read_dag(toy)


def test_downstream_reaches_all_that_read_from_a_stage_and_no_other(toy):
    assert downstream(read_dag(toy), {"alpha"}) == ["alpha", "mid", "last"]


def test_with_upstream_gives_what_stands_before_a_stage_in_the_order_of_the_graph(toy):
    dag = read_dag(toy)
    assert with_upstream(dag, ["mid"]) == ["zeta", "alpha", "mid"]
    assert with_upstream(dag, ["apart", "alpha"]) == ["zeta", "alpha", "apart"]
