"""What may be published: the files of a model, if its verdict is yes and their bytes are those that were audited."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from retune.verdict import find_verdict, is_of_verdict
from retune.verify.digests import hash_files
from stages.contracts.audit import PROVENANCE
from stages.core.errors import StageError
from stages.core.files import read_json, sha256_file
from stages.dvc_lock.hashes import digest_path
from stages.dvc_lock.lock import LOCK, read_locked_stages
from stages.dvc_lock.records import parse_record

MADE_BY = {"model": "merge", "adapter": "train", "gguf": "gguf"}
"""{what is asked for: the stage that makes it}."""
VOUCHING = ("audit", "report")
"""The stages that say what was made, and whether it is good."""
RECORDS = PurePosixPath("data/records")
CARD = "README.md"
TAKEN = {".safetensors", ".gguf", ".json", ".jinja", ".model", ".txt"}
"""Kinds of files that a model consists of."""
LEFT = {"checks.json", "imatrix.gguf"}
"""Measurements (the model card has them, and here they name rows), and what files were quantized with."""


@dataclass(frozen=True)
class AuditedFile:
    """One file on its way."""

    name: str
    """In the repository."""
    path: Path
    sha256: str
    """As it was audited; of the model card, as it is."""


def refuse_failed(root: Path, *, refused_too: bool) -> None:
    """Raise StageError unless the gate has let pass what lies here (with `refused_too`: unless it was judged), and the card says so."""
    verdict = find_verdict(root)
    if verdict.passed is None:
        raise StageError(f"it is not pushed: {verdict.in_words()}")
    if not verdict.passed and not refused_too:
        reasons = "\n  ".join(verdict.reasons)
        raise StageError(
            f"the model did not pass, so it is not pushed (--refused-too pushes it all the same):\n  {reasons}"
        )
    if not is_of_verdict(root / "data/report" / CARD, verdict):
        raise StageError(
            f"data/report/{CARD} is not of the verdict for these figures: `dvc repro report` writes the model card"
        )


def refuse_unlocked(root: Path) -> None:
    """Raise StageError unless what vouches for the files is what dvc.lock names, by its bytes: records, audit, report.

    The gate is not asked here: where it says no it fails, and DVC notes nothing down of a stage that fails. `refuse_failed` holds it
    against the verdict.
    """
    stages = read_locked_stages(root)
    lacking = [stage for stage in (*MADE_BY.values(), *VOUCHING) if stage not in stages]
    if lacking:
        raise StageError(f"{LOCK} has no entry of {', '.join(lacking)}: `dvc repro` makes what is missing")
    wrong: dict[str, str] = {}
    for stage, entry in stages.items():
        for path, digest in entry.outs.items():
            vouches = stage in VOUCHING or PurePosixPath(path).parent == RECORDS
            if vouches and digest_path(root, path) != digest:
                wrong[path] = stage
    if wrong:
        raise StageError(
            f"{', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} not what {LOCK} names, so nothing vouches for the files. "
            f"{advise(wrong.values())}"
        )


def advise(stages: Iterable[str]) -> str:
    """What brings back the files of stages."""
    names = " ".join(dict.fromkeys(stages))
    return f"`retune restore --force {names}` brings back what was made, or says why it cannot; `retune verify` names each difference"


def collect_files(root: Path, wanted: list[str]) -> list[AuditedFile]:
    """The model card and the files of what is wanted, each compared with the audit.

    Model and GGUF files go to the top of the repository. The adapter goes there only when it is alone: beside a merged model,
    a library would load it on top, and add it twice.

    Raises StageError that names every file that is missing or differs.
    """
    chain = read_chain(root)
    card = root / "data/report" / CARD
    if not card.is_file():
        raise StageError(f"{card.relative_to(root)} is not there: `dvc repro report` writes the model card")
    found = [AuditedFile(CARD, card, sha256_file(card))]
    wrong: list[str] = []
    makers: list[str] = []
    for name in wanted:
        below = PurePosixPath("adapter" if name == "adapter" and len(wanted) > 1 else ".")
        if MADE_BY[name] not in chain:
            raise StageError(f"the audit knows of no {name}: `dvc repro` makes and judges it")
        for output in chain[MADE_BY[name]]["outputs"].values():
            listed = {root / output["path"] / file: file for file in output["files"] if is_published(file)}
            digests, _ = hash_files((path for path in listed if path.is_file()), f"hashing {output['path']}")
            for path, file in listed.items():
                digest = output["files"][file]
                if path not in digests or digests[path].sha256 != digest:
                    state = "differs" if path in digests else "is not there"
                    wrong.append(f"{output['path']}/{file} {state}")
                    makers.append(MADE_BY[name])
                found.append(AuditedFile(str(below / file), path, digest))
    if wrong:
        raise StageError(f"these files are not those that were audited: {'; '.join(wrong)}. {advise(makers)}")
    return found


def read_chain(root: Path) -> dict[str, Any]:
    """{stage: its record} as the audit had them. Raises StageError."""
    path = root / "data/audit" / PROVENANCE
    try:
        chain = read_json(path)["chain"]
        records = {
            stage: parse_record(f"{PROVENANCE}: {stage}", json.dumps(one).encode()) for stage, one in chain.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StageError(f"data/audit/{PROVENANCE} is not there, or is cut off: {advise(['audit'])}") from error
    return records


def is_published(file: str) -> bool:
    """Whether a file belongs to a model, by its name."""
    path = PurePosixPath(file)
    return (path.suffix in TAKEN and path.name not in LEFT) or path.name.startswith("Modelfile")
