"""What may be published: the files of a model, if its verdict is yes and their bytes are those that were audited."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from retune.verdict import find_verdict, is_of_verdict
from stages.contracts.audit import PROVENANCE
from stages.core.errors import StageError
from stages.core.files import read_json, sha256_file

MADE_BY = {"model": "merge", "adapter": "train", "gguf": "gguf"}
"""{what is asked for: the stage that makes it}."""
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


def collect_files(root: Path, wanted: list[str]) -> list[AuditedFile]:
    """The model card and the files of what is wanted, each compared with the audit.

    Model and GGUF files go to the top of the repository. The adapter goes there only when it is alone: beside a merged model,
    a library would load it on top, and add it twice.

    Raises StageError that names every file that is missing or differs.
    """
    chain: dict[str, Any] = read_json(root / "data/audit" / PROVENANCE)["chain"]
    card = root / "data/report" / CARD
    if not card.is_file():
        raise StageError(f"{card.relative_to(root)} is not there: `dvc repro report` writes the model card")
    found = [AuditedFile(CARD, card, sha256_file(card))]
    wrong: list[str] = []
    for name in wanted:
        below = PurePosixPath("adapter" if name == "adapter" and len(wanted) > 1 else ".")
        if MADE_BY[name] not in chain:
            raise StageError(f"the audit knows of no {name}: `dvc repro` makes and judges it")
        for output in chain[MADE_BY[name]]["outputs"].values():
            for file, digest in output["files"].items():
                path = root / output["path"] / file
                if not is_published(file):
                    continue
                if not path.is_file():
                    wrong.append(f"{output['path']}/{file} is not there")
                elif sha256_file(path) != digest:
                    wrong.append(f"{output['path']}/{file} differs")
                found.append(AuditedFile(str(below / file), path, digest))
    if wrong:
        raise StageError(
            f"these files are not those that were audited: {'; '.join(wrong)}. "
            "`retune restore --force` brings back those that were"
        )
    return found


def is_published(file: str) -> bool:
    """Whether a file belongs to a model, by its name."""
    path = PurePosixPath(file)
    return (path.suffix in TAKEN and path.name not in LEFT) or path.name.startswith("Modelfile")
