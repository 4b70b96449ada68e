"""`retune origin FILE`: what made a GGUF file, by its own metadata, and proven by the records of the project it lies in."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from retune.project import find_root, give_up, print_json

PROVEN, CONTRADICTED, NOTHING = 0, 1, 3


@dataclass
class FileOrigin:
    """What is known of a file."""

    file: str
    sha256: str
    says: dict[str, Any]
    """Its metadata of where it comes from."""
    proof: str
    """`proven`, `contradicted`, or `none`: there is nothing to prove it by."""
    why: list[str]


def origin(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="GGUF files.")],
    records: Annotated[
        Path | None, typer.Option(help="The folder with the records. Default: data/records of the project around here.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
) -> None:
    """Tell what made a GGUF file, and prove it by the records: its bytes, and the hash of all records that stand in it.

    Exit code 0: proven; 1: the records say otherwise (for any of the files); 3: no records to prove it by, or another project's file.
    """
    from stages.core.errors import StageError

    folder = records or find_records()
    try:
        found = [look(file, folder) for file in files]
    except StageError as error:
        give_up(str(error))
    if as_json:
        print_json([asdict(one) for one in found])
    else:
        print("\n\n".join(map(render, found)))
    proofs = {one.proof for one in found}
    raise typer.Exit(CONTRADICTED if "contradicted" in proofs else NOTHING if "none" in proofs else PROVEN)


def find_records() -> Path | None:
    """data/records of the project around here, if there is one."""
    root = find_root()
    return None if root is None else root / "data/records"


def look(file: Path, records: Path | None) -> FileOrigin:
    """What a file says and what the records say of it. Raises StageError if it is no GGUF file."""
    from stages.core.errors import StageError
    from stages.core.files import sha256_file
    from stages.llama_cpp.gguf_reader import open_gguf

    if not file.is_file():
        raise StageError(f"{file} is not there")
    try:
        reader = open_gguf(file)
    except (ValueError, OSError, KeyError, IndexError) as error:
        raise StageError(f"{file} is no whole GGUF file") from error
    digest = sha256_file(file)
    says = read_said(reader)
    proof, why = prove(file, digest, says, records)
    return FileOrigin(str(file), digest, says, proof, why)


def read_said(reader: Any) -> dict[str, Any]:  # noqa: ANN401 - gguf ships no types
    """The metadata that tell of a file's origin, in the file's order."""
    kept = ("retune.", "general.base_model.", "general.dataset.", "general.name", "general.license")
    return {
        name: field.contents()
        for name, field in reader.fields.items()
        if name.startswith(kept) and not name.endswith(".count")
    }


def prove(file: Path, digest: str, says: dict[str, Any], records: Path | None) -> tuple[str, list[str]]:
    """(proof, why) of a file by the records."""
    from stages.contracts.gguf import KEYS
    from stages.core.files import read_json
    from stages.gguf_export.provenance_keys import records_digest

    mine = says.get(KEYS["records"])
    nothing = [] if any(name.startswith("retune.") for name in says) else ["the file says nothing of Retune"]
    export = records / "gguf.json" if records else None
    if records is None or export is None or not export.is_file():
        where = (
            f"in {records}" if records else "here: call it in the project's folder, or name the folder with --records"
        )
        return "none", [*nothing, f"there are no records {where}"]
    record = read_json(export)
    written = record["outputs"].values()
    known = {f"{out['path']}/{name}": sha256 for out in written for name, sha256 in out["files"].items()}
    name = next((name for name, sha256 in known.items() if sha256 == digest), None)
    # data/records lies two folders below the project
    place = next((path for path in known if (records.resolve().parents[1] / path).resolve() == file.resolve()), None)
    if name is None and place is not None:
        # whatever it says of itself: a file of the base and an importance matrix say no hash of the records
        return "contradicted", [*nothing, f"the record of gguf has another sha256 of {place}: {known[place]}"]
    why = [
        *nothing,
        f"the record of gguf has this sha256 as {name}" if name else "the record of gguf has no file with this sha256",
    ]
    if mine is None:
        return ("proven" if name else "none"), why
    # what the export read says whose records the hash is of; with one left out of the list, the hash is another
    named = [Path(one["path"]) for one in record.get("inputs", {}).values()]
    files = [records / path.name for path in named if path.parent.name == records.resolve().name]
    missing = ", ".join(file.name for file in files if not file.is_file())
    if missing or not files:
        return "none", [*why, f"{missing or 'what gguf read is'} not among the records"]
    same = records_digest(files) == mine
    why.append(f"the records' own hash {'is' if same else 'is not'} the one in the file")
    if same and name:
        return "proven", why
    # its own records, other bytes: changed; neither: of another run or project, of which these records say nothing
    return ("contradicted" if same or name else "none"), why


def render(found: FileOrigin) -> str:
    """For the eye."""
    width = max(map(len, found.says), default=0)
    lines = [
        found.file,
        f"  sha256 {found.sha256}",
        *(f"  {key:{width}}  {value}" for key, value in found.says.items()),
    ]
    title = {"proven": "PROVEN", "contradicted": "CONTRADICTED", "none": "not proven"}[found.proof]
    return "\n".join([*lines, f"  {title}: {'; '.join(found.why)}"])
