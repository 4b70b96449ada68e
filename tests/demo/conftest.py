"""The demo's scripts are no package: their folder is put on the path, as it is when they are run."""

import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "data" / "demo"
sys.path.insert(0, str(DEMO))


@pytest.fixture(scope="session")
def demo() -> Path:
    return DEMO
