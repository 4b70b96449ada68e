"""What each key of params.yaml means, beside the key: the first sentence of what stands under its field in the stage's params model."""

import ast
import inspect
import re
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Literal, get_args, get_origin

from retune.use.params_text import read_tree
from stages.core.params import Params, models_in

COLUMN = 38
"""Where comments begin."""
WIDTH = 120
"""Columns of a line; a comment that does not fit stands above its key."""


def explain(text: str, only: Collection[str] | None = None) -> str:
    """A params file with the meaning of each key beside it; where the file says something of its own there, above it.

    Args:
        text: of the file.
        only: names of params (section.key, or deeper): these and those in them alone, and no key that has a comment. None: all.
    """
    lines = text.split("\n")
    explained = dict(enumerate(lines))
    for keys, line in key_lines(read_tree(text)):
        meaning = find_meaning(keys)
        said = lines[line]
        own = comment_in(said)
        above = lines[line - 1].strip().startswith("#") if line else False
        if meaning is None or own == meaning or above:
            continue
        if only is not None and (own or not is_below(keys, only)):
            continue
        beside = f"{said:<{COLUMN - 1}} # {meaning}" if len(said) < COLUMN else f"{said}  # {meaning}"
        if own or len(beside) > WIDTH:
            beside = f"{' ' * indent(said)}# {meaning}\n{said}"
        explained[line] = beside
    return "\n".join(explained.values())


def is_below(keys: Sequence[str], names: Collection[str]) -> bool:
    """Whether a param is one of the named ones or in one."""
    name = ".".join(keys)
    return any(name == one or name.startswith(f"{one}.") for one in names)


def key_lines(tree: object, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """(the keys that lead to it, its line from 0) of each key that begins a line; of a list's mappings those of the first."""
    if isinstance(tree, Mapping) and not tree.fa.flow_style():  # type: ignore[attr-defined]
        for key, value in tree.items():
            yield (*above, key), tree.lc.key(key)[0]  # type: ignore[attr-defined]
            yield from key_lines(value, (*above, key))
    elif isinstance(tree, list) and tree and not tree.fa.flow_style():  # type: ignore[attr-defined]
        yield from key_lines(tree[0], (*above, "0"))


def comment_in(line: str) -> str:
    """The comment of a line of YAML, without its sign; empty if there is none."""
    bare = re.sub(r""""(?:\\.|[^"\\])*"|'(?:''|[^'])*'""", lambda quoted: "x" * len(quoted[0]), line)
    found = re.search(r"(?:^|\s)#\s*", bare)
    return line[found.end() :].rstrip() if found else ""


def indent(line: str) -> int:
    """Columns before the first character."""
    return len(line) - len(line.lstrip())


def find_meaning(keys: Sequence[str]) -> str | None:
    """What a section, or a param in it, means, in one sentence, with the values it may have where they are few.

    None for a key of the user's own, and for an unknown one.
    """
    from stages.check import read_sections

    section, *rest = keys
    if section not in read_sections():
        return None
    models: list[type[Params]] = [read_sections()[section]]
    meaning: str | None = first_sentence(models[0].__doc__ or "")
    for key in rest:
        if key.isdecimal():  # a list's item is what the list holds
            continue
        model = next((model for model in models if key in model.model_fields), None)
        if model is None:
            return None
        kind = model.model_fields[key].annotation
        models = models_in(kind)
        meaning = field_meanings(model).get(key) or next((first_sentence(one.__doc__ or "") for one in models), None)
        if meaning and get_origin(kind) is Literal:
            meaning += f" ({', '.join(map(str, get_args(kind)))})"
    return meaning


@cache
def field_meanings(model: type[Params]) -> Mapping[str, str]:
    """{field: the first sentence of what stands under it} of a params model. Read from its source: the stages start without."""
    (found,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    body = found.body if isinstance(found, ast.ClassDef) else []
    return {
        field.target.id: first_sentence(under.value.value)
        for field, under in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(under, ast.Expr) and isinstance(under.value, ast.Constant) and isinstance(under.value.value, str)
    }


def first_sentence(text: str) -> str:
    """The first sentence, in one line, without its full stop."""
    return re.split(r"\.(?:\s|$)", " ".join(text.split()), maxsplit=1)[0]
