"""The data stages give the same bytes on any day, in any time zone, with any hash seed and any number of workers."""

from pathlib import Path

import pytest

from stages.core.files import sha256_files, sha256_tree
from tests.end_to_end.conftest import Project, copy_project

pytestmark = pytest.mark.slow

ANOTHER_DAY = """
import time_machine
time_machine.travel("2031-02-03 23:59:59 +0000").start()
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return copy_project(tmp_path_factory.mktemp("deterministic"))


def run_data_stages(project: Project, workers: int | None, **env: str) -> dict[str, str]:
    project.params(lambda values: values["runtime"].update(workers=workers))
    project.call("dvc", "repro", "--force", "template", **env)
    return {
        name: sha256_tree(sha256_files(project.root / "data" / name))
        for name in ("base", "tokenizer", "raw", "messages", "tokens", "records")
    }


def test_data_stages_same_bytes_on_another_day_zone_seed_and_worker_count(two: Project, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(ANOTHER_DAY)
    first = run_data_stages(two, 1, TZ="UTC", PYTHONHASHSEED="0")
    second = run_data_stages(
        two, 2, TZ="Pacific/Kiritimati", PYTHONHASHSEED="4711", PYTHONPATH=f"{tmp_path}:{two.root}", LC_ALL="C"
    )
    assert first == second
