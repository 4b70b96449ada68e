"""dvc.lock against dvc.yaml and params.yaml: entries, paths, commands, params."""

from collections.abc import Iterator, Mapping
from typing import Any

from retune.dvc_files import read_owners
from retune.verify.fields import name_differences
from retune.verify.kinds import AGAIN, FROM_GIT, Difference
from retune.verify.locked import find_path_problem, list_paths
from stages.dvc_lock.lock import LockedStage


def compare_form(
    declared: Mapping[str, Any], locked: Mapping[str, LockedStage], there: Mapping[str, bool], notes: list[str]
) -> Iterator[Difference]:
    """Entries against dvc.yaml.

    Args:
        declared: dvc.yaml's stages.
        locked: dvc.lock's.
        there: {output: whether it lies there}.
        notes: where what is no difference goes.
    """
    for stage, said in declared.items():
        entry = locked.get(stage)
        if entry is None:
            left = [path for path in read_owners({stage: said}) if there.get(path)]
            if left:
                yield Difference(
                    "lock_entry",
                    "dvc.lock",
                    f"has no entry of {stage}, and {', '.join(left)} lies there",
                    f"stages.{stage}",
                    stage,
                    FROM_GIT.format(stage=stage),
                )
            else:
                notes.append(f"{stage} has not run yet")
            continue
        for one in (*list_paths(entry, entry.deps), *list_paths(entry, entry.outs)):
            if problem := find_path_problem(one):
                yield Difference(
                    "lock_entry", "dvc.lock", problem, f"stages.{stage}", stage, FROM_GIT.format(stage=stage)
                )
        if " ".join(entry.cmd.split()) != " ".join(str(said.get("cmd", "")).split()):
            yield Difference(
                "lock_command",
                "dvc.lock",
                f"{stage} ran by another command than dvc.yaml has",
                f"stages.{stage}.cmd",
                stage,
                AGAIN,
            )
        yield from compare_paths(stage, said, entry)
    notes += [
        f"dvc.lock has an entry of {stage}, which dvc.yaml has no more" for stage in locked if stage not in declared
    ]


def compare_paths(stage: str, said: Mapping[str, Any], entry: LockedStage) -> Iterator[Difference]:
    """The deps and outs of an entry against dvc.yaml's."""
    wanted = {"deps": set(said.get("deps", [])), "outs": set(read_owners({stage: said}))}
    for kind, paths in (("deps", entry.deps), ("outs", entry.outs)):
        for path in sorted(wanted[kind] ^ set(paths)):
            words = "is not in dvc.lock" if path in wanted[kind] else "is not in dvc.yaml"
            yield Difference("lock_entry", "dvc.lock", f"{path} {words}", f"stages.{stage}.{kind}.{path}", stage, AGAIN)


def compare_params(
    declared: Mapping[str, Any], locked: Mapping[str, LockedStage], values: Mapping[str, Any], notes: list[str]
) -> Iterator[Difference]:
    """The params of each entry against params.yaml.

    A section of another stage (`check` and `audit` list some) that is as that stage's entry has it says nothing new. Where it is another one,
    both may be true: the other stage has failed, or has not run yet, since the edit. So check's is held against params.yaml, too, and what
    that has is noted. Not the audit's: a stage may have run again since it judged.
    """
    owned = {stage for stage, entry in locked.items() if stage in entry.params}
    for stage, entry in locked.items():
        if stage not in declared:
            continue
        for section, said in entry.params.items():
            is_copy = section != stage and section in owned
            if is_copy and (stage == "audit" or said == locked[section].params[section]):
                continue
            differences = list(name_differences(said, values.get(section, {}), ("dvc.lock has", "params.yaml has")))
            for field, words in differences:
                yield Difference("params_changed", "params.yaml", words, f"{section}.{field}", stage, AGAIN)
            if is_copy and not differences:
                notes.append(f"{section} has not run since params of it changed that {stage} has seen")
