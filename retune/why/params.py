"""Params and commands that differ from those of the last run, key by key."""

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from retune.why.cause import Cause
from retune.yaml_files import read_yaml

LONGEST = 60
"""Characters of a value that are shown."""
MISSING = object()


def explain_params(root: Path, path: str, sections: object, locked: Mapping[str, Any]) -> Iterator[Cause]:
    """What differs in a params file.

    Args:
        root: the project.
        path: the file.
        sections: what DVC says of it: {section: state}, or the state of a file that is not there.
        locked: {section: values} as dvc.lock has them.
    """
    if not isinstance(sections, dict) or not (root / path).is_file():
        yield Cause("param", path, f"{path} is missing")
        return
    present = read_yaml(root / path)
    for section in sections:
        old, new = read_value(locked, section), read_value(present, section)
        if new is MISSING:
            yield Cause("param", section, f"{section} is missing from {path}", old=None if old is MISSING else old)
        elif old is MISSING:
            yield Cause("param", section, f"{section} is new in {path}", new=new)
        else:
            yield from compare_values(section, old, new)


def read_value(values: Mapping[str, Any], key: str) -> Any:  # noqa: ANN401 - YAML as it comes
    """The value of a key, or of a path with dots; MISSING where there is none."""
    if key in values:
        return values[key]
    first, _, rest = key.partition(".")
    inner = values.get(first)
    return read_value(inner, rest) if rest and isinstance(inner, Mapping) else MISSING


def compare_values(name: str, old: object, new: object) -> Iterator[Cause]:
    """The leaves that differ, as DVC compares them: 1 is 1.0 and True."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            inner = f"{name}.{key}"
            if key not in new:
                yield Cause("param", inner, f"{inner} is gone (it was {show(old[key])})", old=old[key])
            elif key not in old:
                yield Cause("param", inner, f"{inner} is new: {show(new[key])}", new=new[key])
            else:
                yield from compare_values(inner, old[key], new[key])
    elif isinstance(old, list) and isinstance(new, list) and any(isinstance(item, dict) for item in [*old, *new]):
        for place, (one, other) in enumerate(zip(old, new, strict=False)):
            yield from compare_values(f"{name}[{place}]", one, other)
        for place in range(len(new), len(old)):
            yield Cause("param", f"{name}[{place}]", f"{name}[{place}] is gone", old=old[place])
        for place in range(len(old), len(new)):
            yield Cause("param", f"{name}[{place}]", f"{name}[{place}] is new: {show(new[place])}", new=new[place])
    elif old != new:
        yield Cause("param", name, f"{name} {show(old)} -> {show(new)}", old=old, new=new)


def show(value: object) -> str:
    """A value on one line, cut short."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def explain_command(old: str, new: str) -> Cause:
    """The words of a stage's command that are others in dvc.yaml."""
    before, after = old.split(), new.split()
    changes = []
    for kind, start, end, first, last in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        gone, came = f"`{' '.join(before[start:end])}`", f"`{' '.join(after[first:last])}`"
        if kind == "replace":
            changes.append(f"{gone} -> {came}")
        elif kind != "equal":
            changes.append(f"{came} is new" if kind == "insert" else f"{gone} is gone")
    return Cause("command", "cmd", f"its command in dvc.yaml: {', '.join(changes) or 'other white space'}", old, new)
