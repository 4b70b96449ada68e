"""docs/architecture.md is true of the code: its drawing, its packages, and each file and function that it names."""

import ast
import re

import pytest

from tests.project import ROOT, imports_of

PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
BENEATH = {"core", "arrow", "contracts", "show", "environment"}
"""What lies under every box and is not drawn."""
STAGES = ROOT / "stages"


def room(path_parts: tuple[str, ...]) -> str:
    """The box that a file below stages/ stands in: its package, or the stage itself."""
    return path_parts[0].removesuffix(".py")


def drawn() -> set[tuple[str, str]]:
    """The arrows between boxes of stages/ in the drawing."""
    lines = re.findall(r"^    (\w+) --> ([\w &]+)$", PAGE, re.MULTILINE)
    return {(start, end) for start, ends in lines for end in ends.split(" & ")}


def imported() -> set[tuple[str, str]]:
    """The arrows that the imports make."""
    found = set()
    for path in STAGES.rglob("*.py"):
        here = room(path.relative_to(STAGES).parts)
        for other in imports_of(path):
            if other.is_relative_to(STAGES) and other.name != "__init__.py":
                found.add((here, room(other.relative_to(STAGES).parts)))
    return {(here, there) for here, there in found if here != there}


def test_drawing_has_the_arrows_that_the_imports_make() -> None:
    # `check` reads every stage's params model and is in no story
    expected = {arrow for arrow in imported() if not BENEATH & set(arrow) and arrow[0] != "check"}
    assert drawn() == expected


@pytest.mark.parametrize("package", sorted(path.parent.name for path in STAGES.glob("*/__init__.py")))
def test_page_has_a_line_for_each_package(package: str) -> None:
    assert f"| `stages/{package}` |" in PAGE


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`([\w./]+/[\w./]*)`", PAGE))))
def test_path_that_the_page_names_is_there(path: str) -> None:
    if not any(
        word.isupper() and len(word) > 2 for word in re.split(r"\W|_", path)
    ):  # a pattern such as stages/NAME.py
        assert (ROOT / path).exists()


@pytest.mark.parametrize(("path", "names"), sorted(set(re.findall(r"`([\w/]+\.py)`\s+\(((?:`\w+`(?:, )?)+)\)", PAGE))))
def test_function_that_the_page_names_is_there(path: str, names: str) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert set(re.findall(r"`(\w+)`", names)) <= defined
