"""The text of a params file: read as values, or with its comments, and written again."""

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RoundTripRepresenter

from stages.core.errors import StageError
from stages.core.value_differences import show_text

WIDTH = 4096
"""Columns after which the writer would break a line: no value of a param is so long."""


class NullIsNull(RoundTripRepresenter):
    """Writes null as `null`: an empty value looks forgotten."""


NullIsNull.add_representer(
    type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
)


def read_text(path: Path) -> str:
    """The text of a params file. Raises StageError if it cannot be read, or is none."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StageError(f"{show_text(path.name)} is not UTF-8: save it as such, or name another file") from error
    except OSError as error:
        raise StageError(f"{show_text(path.name)} cannot be read: {error.strerror or error}") from error


def read_values(text: str, name: str = "params.yaml") -> dict[str, Any]:
    """The values of a params file that is called `name`. Raises StageError if it is not one."""
    try:
        values = YAML(typ="safe", pure=True).load(text) or {}
    except YAMLError as error:
        raise StageError(f"{name} is not valid YAML: {error}") from error
    except RecursionError as error:
        raise StageError(f"{name} holds values too deep in one another: `retune use` lists presets") from error
    if not isinstance(values, dict):
        raise StageError(f"{name} is no mapping of sections, as a params file is")
    return values


def read_tree(text: str, name: str = "params.yaml") -> Any:  # noqa: ANN401 - YAML as it comes
    """A params file's values with its comments and its style, for `write_tree`. Raises StageError if it is not one."""
    read_values(text, name)  # for its message
    try:
        return make_writer(0).load(text)
    except YAMLError as error:
        raise StageError(f"{name} is not valid YAML: {error}") from error
    except RecursionError as error:
        raise StageError(f"{name} holds values too deep in one another: `retune use` lists presets") from error


def write_tree(tree: object, offset: int = 0) -> str:
    """The text of what `read_tree` gave. `offset`: columns by which the dashes of lists stand further in than their keys."""
    out = io.StringIO()
    make_writer(offset).dump(tree, out)
    return out.getvalue()


def read_value(text: str) -> object:
    """One value of a param, as YAML. Raises YAMLError if it is none."""
    value: object = YAML().load(text)
    return value


def find_offset(text: str) -> int:
    """By how many columns the dashes of a text's lists stand further in than their keys."""
    found = re.search(r"^( *)[^\s#-][^\n]*:[ ]*(?:#[^\n]*)?\n(?: *#[^\n]*\n)*( *)- ", text, flags=re.MULTILINE)
    return max(len(found[2]) - len(found[1]), 0) if found else 0


def make_writer(offset: int) -> YAML:
    """Reads and writes with comments."""
    yaml = YAML()
    yaml.Representer = NullIsNull
    yaml.width, yaml.preserve_quotes = WIDTH, True
    yaml.indent(mapping=2, sequence=2 + offset, offset=offset)
    return yaml


def leaves(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """{section.key: value}, however deep; a list of mappings by its numbers from 0, another list is a value."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        of_mappings = isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value)
        inner = {str(number): item for number, item in enumerate(value)} if of_mappings else value
        if isinstance(inner, Mapping) and inner:
            found |= leaves(inner, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found
