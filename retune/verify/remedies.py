"""What `retune restore` cannot mend: files that are exactly what dvc.lock names, and yet do not agree with others."""

from dataclasses import replace

from retune.verify.kinds import Difference, restore
from retune.verify.locked import list_deps, list_outs
from retune.verify.seen import Seen

OF_FILE = {"verdict_contradicts", "record_chain", "record_unreadable"}
"""Kinds that are mended where the file itself comes back."""
OF_STAGE = {"record_bytes", "execution_contradicts"}
"""Kinds of two files of a stage: either may be the wrong one."""


def settle_remedies(seen: Seen, found: list[Difference]) -> list[Difference]:
    """The same, where `retune restore` is named only for what it would change; else `dvc repro`, by force where DVC sees no reason."""
    return [
        replace(one, remedy=repeat(seen, one.stage))
        if one.kind in OF_FILE | OF_STAGE and restore(one.stage) in one.remedy and not is_restorable(seen, one)
        else one
        for one in found
    ]


def is_restorable(seen: Seen, one: Difference) -> bool:
    """Whether dvc.lock names other bytes of the file, or of any output of its stage, than lie there."""
    entry = seen.locked.get(one.stage)
    outs = list_outs(entry) if entry else []
    if one.kind in OF_FILE:
        outs = [out for out in outs if one.path == out.path or one.path.startswith(f"{out.path}/")]
    return any(seen.digest(out.path) != out.md5 for out in outs)


def repeat(seen: Seen, stage: str) -> str:
    """What makes a stage's files again."""
    entry = seen.locked.get(stage)
    changed = entry is None or any(seen.digest(dep.path) != dep.md5 for dep in list_deps(entry))
    return f"`dvc repro {stage}`" if changed else f"`dvc repro --force --single-item {stage}`"
