"""Presets: one is whole, the others say in what they differ from it, so that each tells what it is for.

A file in presets/ (or a params file of yours) that begins with `builds_on: NAME` has the params of that preset, but for those it names:
a mapping is merged key by key; a list, and a mapping whose keys are yours (`audit.gguf`), is replaced whole. What it builds on is whole.
"""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from retune.use.meanings import comment_in, explain, key_lines
from retune.use.overrides import no_such_param, takes_any_key
from retune.use.params_text import leaves, read_text, read_tree, read_values, write_tree
from stages.core.errors import StageError

BUILDS_ON = "builds_on"
GUIDE = """\
# One section for each stage, named like it: what bears identity. A stage runs again when its section changes.
# `runtime` is how, not what: it runs nothing again. More about a key stands under its field in the params model of its stage.
"""
"""What params.yaml says of itself, below what the preset is for."""


def list_presets(root: Path) -> list[str]:
    """The presets of the project, by name."""
    return sorted(path.stem for path in (root / "presets").glob("*.yaml"))


def find_preset(root: Path, name: str) -> Path:
    """The file of a preset, or a params file at this path. Raises StageError, with near names, if there is none."""
    for path in (root / "presets" / f"{name}.yaml", Path(name)):
        if path.is_file():
            return path
    known = list_presets(root)
    near = difflib.get_close_matches(name, known, n=3)
    said = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known)}"
    raise StageError(f"no preset {name}; {said}")


def find_whole(root: Path, name: str) -> Path:
    """The file that has all sections of a preset: what it builds on, or itself."""
    path = find_preset(root, name)
    base = read_tree(read_text(path), path.name).get(BUILDS_ON)
    found = path if base is None else find_preset(root, str(base))
    return found.relative_to(root) if found.is_relative_to(root) else found


def read_purpose(path: Path) -> str:
    """What a preset is for: its first comment, one line."""
    return next(iter(read_head(read_text(path))), "#").removeprefix("#").strip()


def read_head(text: str) -> list[str]:
    """The lines of comment with which a text begins."""
    lines = text.splitlines()
    return lines[: next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))]


def read_preset(root: Path, name: str) -> dict[str, Any]:
    """All params of a preset, as values. Raises StageError as `write_preset` does."""
    return read_values(write_preset(root, name))


def write_preset(root: Path, name: str) -> str:
    """The text that params.yaml has of a preset: all params, each with its meaning and what the preset says of it.

    A params file that is whole and lies elsewhere is taken as it is.
    Raises StageError for an unknown name, and for a file that names a param which there is not or builds on one that is not whole.
    """
    path = find_preset(root, name)
    text = read_text(path)
    tree = read_tree(text, path.name)
    base = tree.pop(BUILDS_ON, None)
    if base is None and path.resolve().parent != (root / "presets").resolve():
        return text
    comments = read_comments(text)
    if base is not None:
        whole = read_text(find_preset(root, str(base)))
        below = read_tree(whole, str(base))
        if BUILDS_ON in below:
            raise StageError(
                f"{path.name} builds on {base}, which builds on {below[BUILDS_ON]}: build on that, and say here what differs"
            )
        problems = list(merge(below, tree))
        if problems:
            raise StageError(f"{path.name}:\n  " + "\n  ".join(problems))
        replaced = leaves(tree)
        kept = {key: said for key, said in read_comments(whole).items() if key not in replaced}
        tree, comments = below, kept | comments
    drop_comments(tree)
    body = add_comments(write_tree(tree), comments)
    return "\n".join(read_head(text)) + f"\n{GUIDE}{explain(body)}"


def merge(whole: Any, part: Any, above: tuple[str, ...] = ()) -> Iterator[str]:  # noqa: ANN401 - YAML as it comes
    """Put the params of `part` into `whole`; what is wrong with those that `whole` does not have."""
    known = list(leaves(whole, "".join(f"{key}." for key in above)))
    for key, value in part.items():
        name = ".".join((*above, key))
        if key not in whole:
            yield f"{name}: {no_such_param(name, known)}"
        elif isinstance(value, Mapping) and isinstance(whole[key], Mapping) and not takes_any_key((*above, key)):
            yield from merge(whole[key], value, (*above, key))
        else:
            whole[key] = value


def read_comments(text: str) -> dict[str, str]:
    """{section.key: the comment beside it}, where there is one."""
    lines = text.split("\n")
    found = {".".join(keys): comment_in(lines[line]) for keys, line in key_lines(read_tree(text))}
    return {name: comment for name, comment in found.items() if comment}


def add_comments(text: str, comments: Mapping[str, str]) -> str:
    """The text with these comments beside its keys, and a line between sections."""
    lines = text.split("\n")
    for keys, line in key_lines(read_tree(text)):
        said = comments.get(".".join(keys))
        lines[line] = ("" if len(keys) > 1 else "\n") + lines[line] + (f" # {said}" if said else "")
    return "\n".join(lines)


def drop_comments(tree: object) -> None:
    """Take all comments and blank lines out."""
    if hasattr(tree, "ca"):
        tree.ca.items.clear()
        tree.ca.comment = None
        tree.ca.end = []
    for value in tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, list) else ():
        drop_comments(value)
