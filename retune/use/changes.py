"""What `retune use` says when it is done: which params changed, and what the next `dvc repro` will do."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retune.project import dvc_status, print_json
from retune.use.params_text import leaves
from stages.core.value_differences import show_text


@dataclass(frozen=True)
class Changes:
    """What `retune use` did."""

    params: dict[str, list[Any]]
    """{section.key: [old, new]}."""
    replaced: Sequence[str]
    """Names in data/custom under which something else lay before."""
    reminders: Sequence[str]
    """What to think of."""
    template: Mapping[str, str]
    """What the chat template will do, by what it is about; empty: it is as it was, or not known yet."""


def compare_params(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, list[Any]]:
    """{section.key: [old, new]} of what differs; [old] alone or [null, new] where a key went or came."""
    before, after = leaves(old), leaves(new)
    names = [*after, *(name for name in before if name not in after)]
    return {
        name: [before.get(name), after.get(name)]
        for name in names
        if before.get(name) != after.get(name) or (name in before) != (name in after)
    }


def tell(root: Path, changes: Changes, as_json: bool) -> None:
    """Say what changed in params.yaml, what was replaced in data/custom, what to think of, and what the next `dvc repro` will do."""
    try:
        stages = dvc_status(root)
        note = None
    except ValueError as error:
        stages, note = {}, f"what will run is unknown: {error}"
    runs, then = find_runs(root, set(stages)) if stages else ([], [])
    if as_json:
        said = {"changed": changes.params, "replaced": changes.replaced, "reminders": changes.reminders}
        print_json({**said, "template": changes.template, "runs": runs, "then": then, "note": note})
        return
    # a key that came or went with the rest of its mapping, and was null, tells nothing
    told = {name: values for name, values in changes.params.items() if values[0] != values[1]}
    print("params.yaml: " + (f"{len(told)} changed" if told else "as it was"))
    for name, (old, new) in told.items():
        print(show_text(f"  {name}: {show(old)} -> {show(new)}"))
    for name in changes.replaced:
        print(show_text(f"{name} was replaced: it held something else"))
    for line in changes.reminders:
        print(show_text(f"note: {line}"))
    for line in template_lines(changes.template):
        print(show_text(line))
    if note:
        print(show_text(note))
    elif runs:
        print(f"`dvc repro` will run {', '.join(runs)}")
        if then:
            print(f"and, where these give other outputs, {', '.join(then)}")
    else:
        print("`dvc repro` has nothing to do")


def template_lines(template: Mapping[str, str]) -> Iterator[str]:
    """What the chat template will do, as `retune inspect` says it too."""
    from stages.reporting.token_view import visible

    if template:
        yield "The chat template:"
    for about, words in template.items():
        yield f"  {about:<13}{visible(words)}"


def find_runs(root: Path, changed: set[str]) -> tuple[list[str], list[str]]:
    """(the changed stages, the stages behind them), in the order of the pipeline."""
    from flows.dag import downstream, read_dag

    dag = read_dag(root)
    # the output of `check` never changes, so nothing runs because of it
    reached = downstream(dag, changed - {"check"})
    return [stage for stage in dag if stage in changed], [stage for stage in reached if stage not in changed]


def show(value: object) -> str:
    """A value as YAML writes it, near enough for a line."""
    return (
        {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else str(value)
    )
