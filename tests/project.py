"""What tests know of the project: where it is, and what each stage's code imports."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("stages", "flows", "retune")


def module_file(name: str) -> Path | None:
    """The file of one of our modules, or None: `stages.chat.chat` -> stages/chat/chat.py, `stages` -> stages/__init__.py."""
    path = ROOT.joinpath(*name.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


@cache
def imports_of(file: Path) -> frozenset[Path]:
    """The project's files that a file imports itself, at its top or inside its functions."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {path for name in names if name.split(".")[0] in PACKAGES and (path := module_file(name))}
    return frozenset(found)


def closure(file: Path) -> set[Path]:
    """A file, and every file of the project that it imports, directly or not. Packages' `__init__.py` are left out: they are docstrings."""
    reached: set[Path] = set()
    waiting = [file]
    while waiting:
        here = waiting.pop()
        if here not in reached:
            reached.add(here)
            waiting += imports_of(here)
    return {path for path in reached if path.name != "__init__.py"}
