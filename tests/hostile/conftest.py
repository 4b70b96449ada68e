"""A project to throw hostile files at."""

from pathlib import Path

import pytest

from tests.hostile.pipeline import Project, make_project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project in a folder of its own, with no dataset."""
    return make_project(tmp_path / "project")
