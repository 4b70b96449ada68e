"""What `retune why` says beforehand is what `dvc repro` does then: one edit of each stage, each carried out."""

import json

import pytest

from tests.end_to_end.conftest import Project
from tests.project import STAGES

pytestmark = pytest.mark.slow


def read_why(project: Project) -> dict[str, dict[str, object]]:
    answer: dict[str, dict[str, object]] = json.loads(project.call("retune", "why", "--json").stdout)["stages"]
    return answer


def test_why_after_a_run_names_nothing(project: Project) -> None:
    assert project.call("retune", "why").stdout == "Nothing would run.\n"


def test_why_names_the_edit_of_a_package_and_accept_records_it(project: Project) -> None:
    path = "stages/conversations/roles.py"
    with project.edited(path):
        file = project.root / path
        file.write_text(file.read_text() + "# planted\n")
        said = project.call("retune", "why", "standardize").stdout
        assert said.startswith(f"standardize: {path} changed in comments or docstrings alone")
        assert "standardize" in project.call("retune", "accept").stdout
        assert project.call("retune", "why").stdout == "Nothing would run.\n"
        assert project.repro() == set()


@pytest.mark.long
@pytest.mark.parametrize("stage", STAGES)
def test_edit_of_a_stage_runs_it_and_of_the_others_those_that_why_names(project: Project, stage: str) -> None:
    path = f"stages/{stage}.py"
    with project.edited(path):
        file = project.root / path
        file.write_text(file.read_text() + "PLANTED = 1\n")
        found = read_why(project)
        will = {name for name, one in found.items() if one["runs"] == "yes"}
        may = {name for name, one in found.items() if one["runs"] == "perhaps"}
        assert will == {"check", stage}
        ran = project.repro()
        assert will <= ran <= will | may
        assert project.call("retune", "why").stdout == "Nothing would run.\n"
