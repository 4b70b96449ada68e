"""The verdict that stands for what lies in data/, if one does: `summary`, `push`, `chat` and `serve` ask here, and nobody else reads gate.json.

A verdict belongs to the figures that it judged. A later run may have made others and have ended before they were judged; then the old
gate.json still lies there. Small files are hashed alone: the records, whose hashes name the tokens, weights and GGUF files, and the files
with figures. What was judged stands in data/audit alone, so that and gate.json are held against dvc.lock, where one is there. So this costs
little, and says nothing of the large files' bytes: `push` hashes those that it sends.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.contracts.audit import MARK, VERDICT, AuditVerdict, GateVerdict, read_answer
from stages.core.files import sha256_file

NO_VERDICT = "no verdict for these figures"
AUDIT, GATE, RECORDS = Path("data/audit") / VERDICT, Path("data/gate.json"), Path("data/records")
NAMED_FILES = 3
"""That one line names, at most."""


@dataclass(frozen=True)
class StandingVerdict:
    """What may be said of what lies in data/."""

    passed: bool | None
    """None: there is no verdict for these figures."""
    reasons: list[str]
    """Where it did not pass, the checks that say no; where there is no verdict, why not; else empty."""
    judged: str | None
    """The digest of what was judged, which stands in the page and the model card, too; None where there is no verdict."""

    def in_words(self) -> str:
        """`passed`, or what it is instead, with the reasons; one line, whatever the files say."""
        if self.passed:
            return "passed"
        from stages.reporting.token_view import visible

        reasons = visible("; ".join(self.reasons), also="\n\t")
        return f"did not pass: {reasons}" if self.judged else f"{NO_VERDICT}: {reasons} (`dvc repro` judges them)"


def find_verdict(root: Path) -> StandingVerdict:
    """The verdict for what lies below `root`/data. Whatever is wrong with the files is said in it; nothing is raised."""
    try:
        verdict = read_answer(root / AUDIT, AuditVerdict)
    except ValueError as error:
        return StandingVerdict(passed=None, reasons=[f"{AUDIT} {error}"], judged=None)
    others = find_others(root, verdict.judged) or find_unlocked(root, AUDIT.parent)
    if others:
        return StandingVerdict(passed=None, reasons=others, judged=None)
    if not verdict.passed:
        return StandingVerdict(passed=False, reasons=verdict.reasons, judged=verdict.digest())
    refused = find_gate_faults(root, verdict)
    if refused:
        return StandingVerdict(passed=None, reasons=refused, judged=None)
    return StandingVerdict(passed=True, reasons=[], judged=verdict.digest())


def find_gate_faults(root: Path, verdict: AuditVerdict) -> list[str]:
    """Why gate.json does not let pass what a verdict does, in words."""
    try:
        gate = read_answer(root / GATE, GateVerdict)
    except ValueError as error:
        return [f"{GATE} {error}"]
    if not gate.passed or gate.judged != verdict.judged:
        return [f"{GATE} is not of the verdict in {AUDIT}"]
    return find_unlocked(root, GATE)


def find_others(root: Path, judged: Mapping[str, str]) -> list[str]:
    """What lies there otherwise than it was judged, in words: files that are gone, that are others, and records that nobody judged."""
    found: dict[str, list[str]] = {"not there": [], "not to be read": [], "another than was judged": []}
    for name, digest in judged.items():
        try:
            if not (root / name).is_file():
                found["not there"].append(name)
            elif sha256_file(root / name) != digest:
                found["another than was judged"].append(name)
        except OSError:
            found["not to be read"].append(name)
    records = [f"{RECORDS}/{path.name}" for path in (root / RECORDS).glob("*.json")]
    found["newer than the verdict"] = [name for name in records if name not in judged]
    return [
        f"{list_names(names)} {'is' if len(names) == 1 else 'are'} {what}" for what, names in found.items() if names
    ]


def find_unlocked(root: Path, path: Path) -> list[str]:
    """Why dvc.lock does not vouch for what judges, in words; nothing where it does, or where there is none.

    A gate that says no fails, and DVC notes nothing down of a stage that fails: dvc.lock may lack gate.json, and data/audit vouches alone.
    """
    from stages.core.errors import StageError
    from stages.dvc_lock.hashes import digest_path
    from stages.dvc_lock.lock import LOCK, read_locked_stages

    if not (root / LOCK).exists():
        return []
    try:
        outs = {out: digest for entry in read_locked_stages(root).values() for out, digest in entry.outs.items()}
        there = digest_path(root, path.as_posix())
    except StageError as error:
        return [str(error)]
    except OSError as error:
        return [f"{path} cannot be read ({error.strerror})"]
    named = outs.get(path.as_posix(), there if path == GATE else "")
    return [] if named == there else [f"{path} is not what {LOCK} names"]


def list_names(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - NAMED_FILES} more" if len(names) > NAMED_FILES else ""
    return ", ".join(sorted(names)[:NAMED_FILES]) + more


def is_of_verdict(page: Path, verdict: StandingVerdict) -> bool:
    """Whether the page or the model card was written for this verdict: it names the digest of what was judged."""
    try:
        text = page.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return verdict.judged is not None and re.findall(f"{MARK}: ([0-9a-f]{{64}})", text) == [verdict.judged]


def warn_of(root: Path, file: Path) -> str | None:
    """What whoever uses a file of data/ should hear: its verdict, unless that is yes. None for other files, and where nothing was ever judged."""
    made = [(root / "data" / folder).resolve() for folder in ("adapter", "merged", "gguf")]
    if file.resolve().parent not in made or not any((root / path).exists() for path in (AUDIT, GATE)):
        return None
    verdict = find_verdict(root)
    return None if verdict.passed else f"this model {verdict.in_words()}" if verdict.judged else verdict.in_words()
