"""Whether DVC has noted a stage's run down as what its record says it was; asked when the stage has ended, and not hours later by the audit.

On a snapshot nobody edits in the window that DVC leaves. But DVC's run cache may hand out what a `dvc repro` left there whose params were edited
at that moment: a model under params that it was not trained with.
"""

from functools import lru_cache
from pathlib import Path

from stages.core.errors import StageError
from stages.dvc_lock.lock import LOCK, LockedStage, read_locked_stages
from stages.dvc_lock.records import FALSE_ENTRY, compare_asked, compare_record_file, find_record_path, parse_record
from stages.dvc_lock.run_cache import evict
from stages.dvc_lock.window import find_window_edits
from stages.reporting.lock_check import HASHED


def forget_false_entry(root: Path, stage: str, *, ran: bool) -> str:
    """Have DVC forget the stage's entry of dvc.lock, and those like it of the run cache, if its record says otherwise; of a stage without one, its execution record.

    Args:
        root: the project, or its snapshot, in which the stage is up to date.
        stage: its name.
        ran: it has just run: its inputs are looked at, too. Else the audit does that.

    Returns:
        In what they differ; empty if the entry is true, or nothing can be said (of a broken file: the audit judges those).
    """
    try:
        locked = read_locked_once(root, (root / LOCK).read_bytes())
        entry = locked.get(stage)
        path = find_record_path(entry) if entry else None
        asked = compare_asked(root, entry) if entry and not path else []
        says = find_falsehoods(root, path, locked, ran=ran) if path else "; ".join(one.says for one in asked)
    except (StageError, OSError):
        return ""
    if says and entry:
        try:
            evict(root, {stage: entry})
        except StageError as error:
            return f"{says}. DVC has not forgotten it: {error}"
    return says


@lru_cache(maxsize=2)
def read_locked_once(root: Path, _: bytes) -> dict[str, LockedStage]:
    """What dvc.lock says: parsed once as long as its bytes, the second argument, are the same. Raises StageError."""
    return read_locked_stages(root)


def find_falsehoods(root: Path, path: str, locked: dict[str, LockedStage], *, ran: bool) -> str:
    """In what the entry of the stage whose record lies at `path` is of another run than the record. Raises StageError."""
    found = list(compare_record_file(root, path, locked))
    if ran and not found:
        found = list(find_window_edits(root, parse_record(path, (root / path).read_bytes()), locked, HASHED))
    return "; ".join(one.says for one in found if one.kind in FALSE_ENTRY)
