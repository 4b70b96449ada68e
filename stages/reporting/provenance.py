"""What made a model, as the stages' records have it: held against each other, and against the bytes that lie there."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.contracts.audit import make_check
from stages.core.files import files_below, sha256_file, sha256_files, sha256_tree
from stages.show.progress import progress


def hash_judged(records: Path, figures: Iterable[Path]) -> dict[str, str]:
    """{path: sha256} of what a verdict is of: the records, and the files with figures; without those that are not there."""
    return {
        path.as_posix(): sha256_file(path) for path in sorted([*records.glob("*.json"), *figures]) if path.is_file()
    }


def check_chain(chain: Mapping[str, Any], records: Path) -> Iterator[dict[str, Any]]:
    """Every stage must have read, by the records, what the stage before it wrote.

    Args:
        chain: {stage: its record}.
        records: the folder that they lie in. A record that a stage has read (the export reads those of all stages before it) must be there.
    """
    written: dict[str, tuple[str, Any]] = {}
    for stage, record in chain.items():
        for output in record["outputs"].values():
            written[output["path"]] = (stage, output["sha256"])
    broken = [
        f"{stage} read another {source['path']} than {written[source['path']][0]} wrote"
        for stage, record in chain.items()
        for source in record["inputs"].values()
        if source["path"] in written and written[source["path"]][1] != source["sha256"]
    ]
    broken += find_changed_records(chain, records)
    says = "; ".join(broken) or "by the records, every stage read the bytes that the stage before it wrote"
    yield make_check("chain", len(broken), 0, passed=not broken, says=says)


def find_changed_records(chain: Mapping[str, Any], records: Path) -> Iterator[str]:
    """What is wrong with the records that stages have read, as they lie there now; in words."""
    for stage, record in chain.items():
        for source in record["inputs"].values():
            path = Path(source["path"])
            if path.parent == records and not path.is_file():
                yield f"{path}, which {stage} read, is not there"
            elif path.parent == records and sha256_tree(sha256_files(path)) != source["sha256"]:
                yield f"{stage} read another {path} than lies there"


def check_bytes(chain: Mapping[str, Any], read: Sequence[Path]) -> dict[str, Any]:
    """The bytes that lie there now must be those that the records name: every file of `read` is hashed (1 to 2 GB a second)."""
    outputs = {output["path"]: output for record in chain.values() for output in record["outputs"].values()}
    files = {
        path: {file.relative_to(path).as_posix() if path.is_dir() else path.name: file for file in files_below(path)}
        for path in read
    }
    wrong = [f"no record says what {path} is" for path in read if path.as_posix() not in outputs]
    count, size = 0, 0
    with progress("comparing the bytes with the records", sum(map(len, files.values())), "files") as advance:
        for path, there in files.items():
            recorded = dict(outputs.get(path.as_posix(), {"files": {}})["files"])
            for name, file in there.items():
                where = f"{path}/{name}" if path.is_dir() else f"{path}"
                digest = recorded.pop(name, None)
                if digest is None and path.as_posix() in outputs:
                    wrong.append(f"{where} is in no record")
                elif digest is not None and sha256_file(file) != digest:
                    wrong.append(f"{where} is not what its record says")
                count, size = count + 1, size + file.stat().st_size
                advance(1)
            wrong += [f"{path}/{name} is not there" for name in recorded]
    says = "; ".join(wrong) or (
        f"the bytes of {', '.join(map(str, read))} are those of the records ({count} files, {size / 1e6:,.1f} MB hashed)"
    )
    return make_check("bytes", len(wrong), 0, passed=not wrong, says=says)


def model_files(chain: Mapping[str, Any], folders: Sequence[Path]) -> dict[str, str]:
    """{file: sha256} of the weights in `folders`, which a user takes away: adapter, merged model, GGUF files."""
    taken = {folder.as_posix() for folder in folders}
    return {
        f"{output['path']}/{name}": digest
        for record in chain.values()
        for output in record["outputs"].values()
        if output["path"] in taken
        for name, digest in output["files"].items()
        if name.endswith((".safetensors", ".gguf"))
    }
