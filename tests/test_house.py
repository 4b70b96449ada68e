"""The shape of the house: what would rot unseen. Who may import whom, and that there is no circle, is held by import-linter (`make check`)."""

import ast
import re
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

from tests.project import PACKAGES, ROOT, imports_of

FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
STAGE_FILES = [path for path in FILES if path.parent == ROOT / "stages" and path.name != "__init__.py"]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_file_is_too_long_to_be_read_in_one_go() -> None:
    lengths = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {path: lines for path, lines in lengths.items() if lines > 300} == {}
    stages = {name(path): lengths[name(path)] for path in STAGE_FILES}
    assert {path: lines for path, lines in stages.items() if lines > 250} == {}, "a stage file: move one noun out"


def test_a_class_name_means_one_thing() -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(name(path))
    assert {one: paths for one, paths in found.items() if len(paths) > 1} == {}


@pytest.mark.parametrize("package", sorted({path.parent for path in FILES}), ids=name)
def test_package_says_what_is_in_it(package: Path) -> None:
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8")))
    assert docstring
    if package.is_relative_to(ROOT / "stages"):
        assert len(docstring.split("\n\n")) > 1, "a package's docstring says in two lines what is in it and who uses it"


def test_each_stage_file_says_what_it_reads_and_writes_and_its_command() -> None:
    for path in STAGE_FILES:
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        assert all(word in docstring for word in ("Reads ", "Writes ", f"python -m stages.{path.stem} ")), name(path)


def test_no_file_of_stages_imports_a_stage() -> None:
    found = {name(path): imports_of(path) & set(STAGE_FILES) for path in FILES if path.is_relative_to(ROOT / "stages")}
    assert {path: files for path, files in found.items() if files} == {}, "what two stages need stands in a package"


def test_every_package_of_stages_stands_in_a_layer() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = [one["layers"] for one in contracts if one.get("containers") == ["stages"]]
    listed = [package for layer in layers for package in re.findall(r"\w+", layer)]
    assert sorted(listed) == sorted(path.parent.name for path in ROOT.glob("stages/*/__init__.py"))


NAMED = re.compile(r"(?<![\w/.])((?:stages|retune|flows|tests|docs|presets)/[\w./-]+\.(?:py|md|yaml|txt|jinja))\b")
PAGES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("page", [*FILES, *PAGES], ids=name)
def test_file_that_is_named_in_code_or_pages_is_there(page: Path) -> None:
    named = set(NAMED.findall(page.read_text(encoding="utf-8")))
    # NAME, VERB ... stand for many
    assert [one for one in sorted(named) if not re.search("[A-Z]{3}", one) and not (ROOT / one).is_file()] == []
