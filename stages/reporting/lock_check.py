"""Whether dvc.lock notes each run down as what it was, for the verdict; and what becomes of an entry that does not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.contracts.audit import make_check
from stages.core.errors import StageError
from stages.dvc_lock.lock import LOCK, LockedStage, read_locked_stages
from stages.dvc_lock.records import FALSE_ENTRY, LockDifference, compare_asked, compare_records, parse_record
from stages.dvc_lock.run_cache import evict
from stages.dvc_lock.window import find_window_edits

HASHED = 256 * 2**20
"""Bytes of the user's inputs that an audit hashes; `retune verify` hashes all."""


@dataclass(frozen=True)
class LockCheck:
    """What the comparison of the records with dvc.lock has found."""

    check: dict[str, Any]
    """For the verdict."""
    differences: Sequence[LockDifference]
    locked: Mapping[str, LockedStage]

    def forget_false_entries(self, root: Path) -> str:
        """Have DVC forget the entries that are false. Gives what was done and what to do, in words."""
        false = sorted({found.stage for found in self.differences if found.kind in FALSE_ENTRY})
        unknown = [found.field for found in self.differences if found.kind == "not in lock"]
        other = sorted({found.stage for found in self.differences if found.kind == "record"} - set(false))
        said = []
        if false:
            stages = ", ".join(false)
            try:
                evict(root, {stage: self.locked[stage] for stage in false})
            except StageError as error:
                said.append(f"{error}; `dvc repro --force {' '.join(false)}` makes it again")
            else:
                said.append(
                    f"The model is what the record says. {LOCK} and DVC's run cache have forgotten that run of {stages}: `dvc repro` makes it "
                    "again, of what params.yaml says now"
                )
        if other:
            said.append(f"`retune restore --force {' '.join(other)}` brings back the records that {LOCK} names")
        if unknown:
            said.append(
                f"`dvc repro` makes what {LOCK} does not know; of a stage that dvc.yaml has no more, remove the record "
                f"(`rm {' '.join(unknown)}`)"
            )
        return ". ".join(said)


def check_lock(root: Path, records: Path) -> LockCheck:
    """Hold every record against dvc.lock: its bytes, params and command, and what else was edited before DVC read it.

    Args:
        root: the project's folder.
        records: the folder with the records, in it.
    """
    folder = (records.relative_to(root) if records.is_absolute() else records).as_posix()
    if not (root / LOCK).is_file():
        says = f"there is no {LOCK} to hold the records against: not judged"
        return LockCheck(make_check("lock", None, None, passed=None, says=says), [], {})
    try:
        locked = read_locked_stages(root)
        found = find_differences(root, folder, locked)
    except (StageError, OSError) as error:
        says = f"the records cannot be held against {LOCK}: {error}"
        return LockCheck(make_check("lock", None, 0, passed=False, says=says), [], {})
    says = "; ".join(difference.says for difference in found) or (
        f"by {LOCK}, each stage had the params, the inputs and the code that its record has"
    )
    return LockCheck(make_check("lock", len(found), 0, passed=not found, says=says), found, locked)


def check_asked(root: Path, stages: Sequence[str]) -> LockCheck:
    """Hold dvc.lock's entries of stages that write no record against what their execution records say that they were asked."""
    locked: Mapping[str, LockedStage] = {}
    found: list[LockDifference] = []
    if (root / LOCK).is_file():
        try:
            locked = read_locked_stages(root)
        except StageError:
            locked = {}  # the audit has said so
        found = [one for stage in stages if stage in locked for one in compare_asked(root, locked[stage])]
    says = "; ".join(difference.says for difference in found)
    return LockCheck(make_check("lock", len(found), 0, passed=not found, says=says), found, locked)


def find_differences(root: Path, folder: str, locked: Mapping[str, LockedStage]) -> list[LockDifference]:
    """Every difference between the records in a folder and dvc.lock, by stage; what was edited in the window, too."""
    found = compare_records(root, folder)
    broken = {difference.stage for difference in found if difference.kind != "params"}
    for stage in sorted(locked.keys() - broken):
        file = root / folder / f"{stage}.json"
        if file.is_file():
            found += find_window_edits(root, parse_record(file.name, file.read_bytes()), locked, HASHED)
    return found
