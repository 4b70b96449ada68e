"""Random single edits of the project, and by the imports, not by dvc.yaml's deps, the stages that they must make run."""

import ast
import random
import re
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from tests.other_params import another, leaves
from tests.project import ROOT, STAGES, closure, flags_of, outs_of
from tests.test_keys import EXEMPT, SPARE

READ = {
    stage: {path.relative_to(ROOT).as_posix() for path in closure(ROOT / f"stages/{stage}.py")} - EXEMPT
    for stage in STAGES
}
"""{stage: the modules that it imports}."""
USERS = ("data/custom", "data/custom_base", "data/custom_adapter")


@dataclass(frozen=True)
class Edit:
    """One edit of one file."""

    path: str
    content: bytes
    """All of the file afterwards."""
    stages: frozenset[str]
    """That run for it."""
    name: str
    """What `retune why` names: a file, a param, a package."""
    words: str
    """What it says of that."""


def random_edit(seed: int, root: Path) -> Edit:
    """The edit of a seed: a param, a file of stages/, or an input."""
    draw = random.Random(seed)
    kind = draw.choice([edit_param, edit_param, edit_code, edit_code, edit_code, edit_input])
    return kind(draw, root)


def edit_param(draw: random.Random, root: Path) -> Edit:
    path = root / "params.yaml"
    yaml = YAML()
    values = yaml.load(path)
    keys = draw.choice(leaves(values))
    section = values
    for key in keys[:-1]:
        section = section[key]
    section[keys[-1]] = another(section[keys[-1]])
    before = path.read_bytes()
    yaml.dump(values, path)
    content = path.read_bytes()
    path.write_bytes(before)
    stages = frozenset() if keys[0] == "runtime" else frozenset({"check", keys[0]})
    if "--record" in STAGES.get(keys[0], {}).get("cmd", ""):
        stages |= {"audit"}  # it holds each record against dvc.lock
    return Edit("params.yaml", content, stages, ".".join(keys), ".".join(keys))


def edit_code(draw: random.Random, root: Path) -> Edit:
    files = sorted(file for file in (root / "stages").rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    file = draw.choice(files)
    path = file.relative_to(root).as_posix()
    text = file.read_text(encoding="utf-8")
    name = path
    if file.suffix == ".py":
        new, words = edit_python(draw, text)
    elif path.startswith("stages/environment/"):
        package, version = draw.choice(re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE))
        new, name, words = text.replace(f"{package}=={version}\n", f"{package}==0.0\n"), package, f"{version} -> 0.0"
    else:
        new, words = f"{text}\n", f"{path} changed"
    return Edit(path, new.encode(), stages_of(path), name, words)


def edit_python(draw: random.Random, text: str) -> tuple[str, str]:
    """(a comment more, a statement at the end, or one inside a function; how `retune why` must say it)."""
    lines = text.splitlines(keepends=True)
    bodies = [
        (node.name, node.body[-1])
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef) and node.body[-1].lineno > node.lineno
    ]
    manner = draw.choice(["comment", "end", *(["inside"] * 2 if bodies else [])])
    if manner == "comment":
        return f"{text}# planted\n", "in comments or docstrings alone"
    if manner == "end":
        return f"{text}PLANTED = 1\n", f"(line {len(lines) + 1})"
    name, last = draw.choice(bodies)
    lines.insert(last.lineno - 1, f"{' ' * last.col_offset}_planted = 1\n")
    return "".join(lines), f"(in `{name}`, line {last.lineno})"


def stages_of(path: str) -> frozenset[str]:
    """The stages that run for an edit of a file of stages/: `check`, those that import it, those whose package it lies in."""
    found = {"check"}
    for stage, read in READ.items():
        reads = read | SPARE.get(stage, set())
        if path in reads or path == environment(stage) or any(is_whole(folder, reads) for folder in packages(path)):
            found.add(stage)
    return frozenset(found)


def environment(stage: str) -> str | None:
    return next(iter(flags_of(stage).get("--environment", [])), None)


def packages(path: str) -> list[Path]:
    """The packages that a file lies in, but those whose files are listed one by one."""
    parents = [Path(parent) for parent in Path(path).parents if len(parent.parts) > 1]
    return [parent for parent in parents if parent.parts[1] not in {"contracts", "environment", "show"}]


def is_whole(folder: Path, reads: set[str]) -> bool:
    """Whether a stage reads every module of a package, so that the package is in its key."""
    modules = {
        file.relative_to(ROOT).as_posix() for file in (ROOT / folder).rglob("*.py") if file.name != "__init__.py"
    }
    return bool(modules) and modules <= reads


def edit_input(draw: random.Random, root: Path) -> Edit:
    inputs = {path for stage in STAGES for paths in flags_of(stage).values() for path in paths}
    written = {path for stage in STAGES for path in outs_of(stage)}
    given = sorted(
        path
        for path in inputs
        if path.startswith("data/") and not any(Path(path).is_relative_to(out) for out in written)
    )
    path = draw.choice([path for path in given if path != "data/records"])
    if path in USERS:
        path, content, words = f"{path}/planted.txt", b"planted", "is new"
    else:
        files = sorted((root / path).rglob("*")) if (root / path).is_dir() else [root / path]
        file = draw.choice([file for file in files if file.is_file()])
        path, content, words = file.relative_to(root).as_posix(), file.read_bytes() + b"\n", "changed"
    stages = {
        stage
        for stage in STAGES
        if any(Path(path).is_relative_to(given) for paths in flags_of(stage).values() for given in paths)
    }
    return Edit(path, content, frozenset(stages), path, words)
