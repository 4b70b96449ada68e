"""What tests know of the project: where it is, the stages of dvc.yaml and their graph, and what each stage's code imports."""

import ast
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("stages", "flows", "retune")
STAGES: dict[str, dict[str, Any]] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
"""dvc.yaml's stages in its order, which is one of the graph's."""


def outs_of(stage: str) -> set[str]:
    """The paths that a stage writes."""
    listed = [*STAGES[stage]["outs"], *STAGES[stage].get("metrics", [])]
    return {out if isinstance(out, str) else next(iter(out)) for out in listed}


def reads(stage: str, other: str) -> bool:
    """Whether a stage reads what the other writes, or what lies in it or around it."""
    pairs = [(Path(dep), Path(out)) for dep in STAGES[stage]["deps"] for out in outs_of(other)]
    return any(dep.is_relative_to(out) or out.is_relative_to(dep) for dep, out in pairs)


def upstream(stage: str) -> list[str]:
    """The stages that a stage needs and the stage itself, in an order in which they can run."""
    needed = {stage}
    for name in reversed(STAGES):
        if any(reads(other, name) for other in needed):
            needed.add(name)
    return [name for name in STAGES if name in needed]


def downstream(stage: str) -> list[str]:
    """The stage and all that read, directly or not, what it writes, in an order in which they can run."""
    return [name for name in STAGES if stage in upstream(name)]


def flags_of(stage: str) -> dict[str, list[str]]:
    """{flag: the paths after it} of a stage's command."""
    flags: dict[str, list[str]] = {}
    for word in STAGES[stage]["cmd"].split()[3:]:
        if word.startswith("--"):
            flags[word] = []
        else:
            flags[list(flags)[-1]].append(word)
    return flags


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


def runtime_keys_of(stage: str) -> set[str]:
    """The keys of `runtime` that a stage's command says it uses, beside log_level."""
    tree = ast.parse((ROOT / "stages" / f"{stage}.py").read_text(encoding="utf-8"))
    named = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "run":
            for keyword in node.keywords:
                if keyword.arg == "runtime_keys":
                    value = keyword.value
                    return set(ast.literal_eval(named[value.id] if isinstance(value, ast.Name) else value))
    return set()
