"""`retune origin FILE`: what made a model's file, by its own metadata, proven by the chain of record, dvc.lock and git."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from retune.origin.links import Link
from retune.project import find_root, give_up, print_json
from stages.core.value_differences import show_text
from stages.dvc_lock.lock import LockedStage

PROVEN, CONTRADICTED, NOTHING = 0, 1, 3
LONGEST = 500
"""Characters of a value of metadata that are shown."""


@dataclass
class FileOrigin:
    """What is known of a file."""

    file: str
    sha256: str
    says: dict[str, Any]
    """Its metadata of where it comes from; empty for a file that is no GGUF."""
    proof: str
    """`proven`, `contradicted`, or `none`: there is nothing to prove it by."""
    links: list[Link] = field(default_factory=list)
    """The chain, from the file to git, as far as it goes."""
    ran: list[str] = field(default_factory=list)
    """How the stage ran that made it, by its execution record; empty where no record names the file."""


def origin(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="GGUF files; weights of the adapter or the merged model.")
    ],
    records: Annotated[
        Path | None, typer.Option(help="The folder with the records. Default: data/records of the project around here.")
    ] = None,
    lock: Annotated[
        Path | None,
        typer.Option(help="The dvc.lock that knows the records. Default: that of the project that the records lie in."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON, with each link of the chain.")] = False,
) -> None:
    """Tell what made a model's file, and prove it link by link.

    A record must name the file's sha256, dvc.lock that record's md5 and the file's (by DVC's cache, or the folder that lies there), and a commit should have that entry of dvc.lock. Without a
    commit it is said that the proof is of this folder alone. Exit code 0: proven; 1: contradicted (any of the files); 3: nothing to prove it by.
    """
    from stages.core.errors import StageError

    folder = records or find_records()
    known = lock or find_lock(folder)
    try:
        found = [look(file, folder, known) for file in files]
    except StageError as error:
        give_up(show_text(str(error)))
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


def find_lock(records: Path | None) -> Path | None:
    """dvc.lock of the project that records lie in: two folders above them."""
    if records is None:
        return None
    place = records.resolve().parents[1] / "dvc.lock" if len(records.resolve().parents) > 1 else None
    return place if place is not None and place.is_file() else None


def look(file: Path, records: Path | None, lock: Path | None) -> FileOrigin:
    """What a file says, and each link of its proof. Raises StageError for what is no such file, or no dvc.lock."""
    from retune.origin.metadata import read_said
    from retune.verify.digests import hash_files
    from stages.contracts.gguf import KEYS
    from stages.core.errors import StageError

    if not file.is_file():
        raise StageError(f"{file} is not there")
    says = {} if file.suffix == ".safetensors" else read_said(file)
    digests, broken = hash_files([file], f"hashing {file.name}")
    if file in broken:
        raise StageError(f"{file} cannot be read: {broken[file]}")
    links = list(follow(file, digests[file], says.get(KEYS["records"]), records, lock))
    return FileOrigin(
        str(file), digests[file].sha256, says, judge(links), links, tell_run(file, digests[file], records)
    )


def tell_run(file: Path, digests: Any, records: Path | None) -> list[str]:  # noqa: ANN401 - FileDigests
    """How the stage ran that made a file, where a record names it. A folder of records that lies elsewhere has no execution records."""
    from retune.execution import describe_execution
    from retune.origin.links import find_record
    from retune.verdict import RECORDS

    found, _ = find_record(file, digests, records)
    if found is None or records is None or records.resolve().parts[-2:] != RECORDS.parts:
        return []
    return [
        f"{show_text(found.stage)}: {line}" for line in describe_execution(records.resolve().parents[1], found.stage)
    ]


def follow(file: Path, digests: Any, hash_said: object, records: Path | None, lock: Path | None) -> list[Link]:  # noqa: ANN401 - FileDigests, whose module is not loaded for nothing
    """The links of a file's proof, as far as they go."""
    from retune.origin.commits import check_commits
    from retune.origin.links import check_lock, check_metadata, find_record, list_named
    from retune.origin.locked_file import check_locked_output

    found, link = find_record(file, digests, records)
    links = [link]
    if hash_said is not None and records is not None and (records / "gguf.json").is_file():
        metadata = check_metadata(hash_said, records)
        # neither bytes nor records: of another run or project, of which these say nothing
        if found is not None or metadata.state == "proven":
            links.append(metadata)
    if found is None:
        named = records is not None and any(one.sha256 == digests.sha256 for one in list_named(records))
        if links[-1].name == "metadata" and link.state == "unknown" and not named:
            links[0] = Link("record", "contradicted", f"{link.says}, and the file says that these are its records")
        return links
    if lock is None:
        return [
            *links,
            Link(
                "lock",
                "unknown",
                "there is no dvc.lock to know that record by (--lock names one), so it proves nothing",
            ),
        ]
    entry = read_stage(lock, found.stage)
    links.append(check_lock(found, entry))
    if entry is None or links[-1].state != "proven":
        return links
    links.append(check_locked_output(lock, entry, found, digests))
    links.append(check_commits(lock, entry))
    return links


def read_stage(lock: Path, stage: str) -> LockedStage | None:
    """A stage's entry of dvc.lock. Raises StageError for a lock that cannot be read."""
    from stages.core.errors import StageError
    from stages.dvc_lock.lock import load_yaml, parse_lock

    try:
        return parse_lock(load_yaml(lock.name, lock.read_text(encoding="utf-8"))).get(stage)
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(f"{lock.name} cannot be read: {error}") from error


def judge(links: list[Link]) -> str:
    """What the links come to: a record that no lock knows proves nothing, nor does a lock whose hash of the output is held against nothing."""
    states = {link.name: link.state for link in links}
    if "contradicted" in states.values():
        return "contradicted"
    needed = [states.get("record"), states.get("lock"), states.get("locked_file"), states.get("metadata", "proven")]
    return "proven" if all(state == "proven" for state in needed) else "none"


def render(found: FileOrigin) -> str:
    """For the eye; what stands in files is spelled out."""
    width = max(map(len, found.says), default=0)
    lines = [
        show_text(found.file),
        f"  sha256 {found.sha256}",
        *(f"  {show_text(key):{width}}  {shorten(show_text(str(value)))}" for key, value in found.says.items()),
    ]
    alone = any(link.name == "git" and link.state == "unknown" for link in found.links)
    title = {
        "proven": "PROVEN by what lies here alone" if alone else "PROVEN",
        "contradicted": "CONTRADICTED",
        "none": "not proven",
    }[found.proof]
    ran = [f"  ran  {line}" for line in found.ran]
    return "\n".join([*lines, f"  {title}: {show_text('; '.join(link.says for link in found.links))}", *ran])


def shorten(text: str) -> str:
    """The beginning of a long value."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
