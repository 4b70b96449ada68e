"""`--set SECTION.KEY=VALUE`: one param of a params file changed, and nothing else."""

import difflib
from collections.abc import Collection, Mapping
from typing import Any, get_origin

from ruamel.yaml.error import YAMLError

from retune.use.params_text import find_offset, leaves, read_tree, read_value, read_values, write_tree
from stages.core.errors import StageError


def apply_overrides(text: str, overrides: Collection[str]) -> tuple[dict[str, Any], str]:
    """(values, text) of a params file with overrides; the text keeps its comments, and is as it was if there are none.

    Raises StageError if the text is not YAML or an override names no key.
    """
    if not overrides:
        return read_values(text), text
    tree = read_tree(text)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise StageError(f"--set {override}: write it as section.key=value")
        try:
            set_value(tree, key, read_value(value))
        except (YAMLError, RecursionError) as error:
            raise StageError(f"--set {override}: the value is not YAML") from error
    out = write_tree(tree, find_offset(text))
    return read_values(out), out


def set_value(tree: Any, key: str, value: object) -> None:  # noqa: ANN401 - YAML as it comes
    """Set the param named `section.key` (or deeper; in a list by its number). Raises StageError, with near names, if there is none."""
    parts = key.split(".")
    place = tree
    for part in parts[:-1]:
        place = step_into(place, part)
    last = find_place(place, parts[-1])
    if last is None and len(parts) > 1 and isinstance(place, Mapping) and takes_any_key(parts[:-1]):
        last = parts[-1]
    if len(parts) == 1 or last is None:
        raise StageError(f"--set {key}: {no_such_param(key, list(leaves(tree)))}")
    place[last] = value


def no_such_param(key: str, known: Collection[str]) -> str:
    """What to say of a key that there is not, with those of `known` that may be meant."""
    section, last = key.split(".", maxsplit=1)[0], key.rsplit(".", maxsplit=1)[-1]
    alike = [name for name in known if name.endswith(f".{last}")]
    beside = [name for name in alike if name.startswith(f"{section}.")]
    near = (beside or difflib.get_close_matches(key, known, n=3) or alike)[:3]
    return "no such param" + (f"; did you mean {' or '.join(near)}?" if near else "")


def takes_any_key(parts: Collection[str]) -> bool:
    """Whether the param of this name is a mapping whose keys the user chooses, such as the floors in `audit.gguf`."""
    from pydantic import BaseModel

    from stages.check import read_sections

    section, *rest = parts
    kind: Any = read_sections().get(section)
    for part in rest:
        fields = kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else {}
        if part not in fields:
            return False
        kind = fields[part].annotation
    return get_origin(kind) is dict


def step_into(place: Any, part: str) -> Any:  # noqa: ANN401 - YAML as it comes
    """What a mapping or list has under a part of a param's name; None if nothing."""
    found = find_place(place, part)
    return None if found is None else place[found]


def find_place(place: object, part: str) -> str | int | None:
    """The key or index that a part of a param's name stands for; None if there is no such."""
    if isinstance(place, Mapping) and part in place:
        return part
    if isinstance(place, list) and part.isdecimal() and int(part) < len(place):
        return int(part)
    return None
