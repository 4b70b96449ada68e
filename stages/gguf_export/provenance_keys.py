"""What a GGUF file says of where it comes from: base, data, licence, the hash of the records of all that made it, the command.

gguf's own keys where there are some, `retune.*` beside them; stages/contracts/gguf.py tells them all.
"""

import importlib.metadata
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stages.contracts.gguf import KEYS, KINDS, Origin, OriginSource
from stages.core.errors import StageError
from stages.core.files import read_json, sha256_file, sha256_tree
from stages.llama_cpp.gguf_reader import read_metadata
from stages.llama_cpp.quantize import Overrides


def read_origin(records: Iterable[Path], adapter: Path, license_name: str | None) -> Origin:
    """What the records of the stages before the export say.

    Args:
        records: the files `STAGE.json` of all stages before the export, in any order; each says whose it is.
        adapter: the adapter's weights.
        license_name: of what is exported.

    Raises:
        StageError: a record is missing, or is another stage's.
    """
    files = sorted(records)
    found = {path.stem: read_json(path) for path in files}
    wrong = [stage for stage, record in found.items() if record.get("stage") != stage]
    if wrong:
        raise StageError(f"{wrong[0]}.json is not the record of {wrong[0]}; `dvc repro {wrong[0]}` writes it")
    lacking = [stage for stage in ("fetch_model", "fetch_data", "merge") if stage not in found]
    if lacking:
        raise StageError(
            f"the record of {lacking[0]} is not among the export's ({', '.join(sorted(found))}); see gguf's command in dvc.yaml"
        )
    base, data = found["fetch_model"], found["fetch_data"]
    return Origin(
        version=importlib.metadata.version("retune"),
        license=license_name,
        base=OriginSource(source=base["params"]["source"], revision=base["params"]["revision"]),
        base_sha256=base["outputs"]["base"]["sha256"],
        datasets=[
            OriginSource(source=source["source"], revision=source["revision"]) for source in data["params"]["sources"]
        ],
        dataset_sha256=data["outputs"]["raw"]["sha256"],
        adapter_sha256=sha256_file(adapter),
        merged_into=found["merge"]["params"]["into"],
        records_sha256=records_digest(files),
        command=command_line(),
    )


def records_digest(records: Iterable[Path]) -> str:
    """One sha256 for the records: of the lines `sha256  STAGE.json`, sorted by name, as `sha256sum` writes them."""
    return sha256_tree({path.name: sha256_file(path) for path in records})


def command_line() -> str:
    """The command that this process is, as dvc.yaml has it."""
    return shlex.join(["python", "-m", "stages.gguf", *sys.argv[1:]])


def tuned_metadata(origin: Origin, kind: str) -> Overrides:
    """What a file that comes of the training says; `kind`: of KINDS."""
    says: dict[str, str | int | bool] = {**base_metadata(origin), "general.dataset.count": len(origin["datasets"])}
    for number, source in enumerate(origin["datasets"]):
        says |= source_metadata(f"general.dataset.{number}", source)
    return says | {
        KEYS["kind"]: KINDS[kind],
        KEYS["merged_into"]: origin["merged_into"],
        KEYS["dataset"]: origin["dataset_sha256"],
        KEYS["adapter"]: origin["adapter_sha256"],
        KEYS["records"]: origin["records_sha256"],
    }


def base_metadata(origin: Origin) -> Overrides:
    """What a file of the base alone says: nothing of the training, so that it stays the same file when one trains again."""
    says: dict[str, str | int | bool] = {"general.license": origin["license"]} if origin["license"] else {}
    says |= {"general.base_model.count": 1, **source_metadata("general.base_model.0", origin["base"])}
    return says | {
        KEYS["kind"]: KINDS["base"],
        KEYS["version"]: origin["version"],
        KEYS["base"]: origin["base_sha256"],
        KEYS["command"]: origin["command"],
    }


def source_metadata(key: str, source: OriginSource) -> dict[str, str]:
    """Name, organization and version of a model or dataset: of a hub id OWNER/NAME its parts, of a local one its name alone."""
    owner, _, name = source["source"].rpartition("/") if source["revision"] else ("", "", source["source"])
    said = {"name": name, "organization": owner, "version": source["revision"] or ""}
    return {f"{key}.{part}": value for part, value in said.items() if value}


def verify_metadata(reader: Any, says: Overrides, name: str) -> None:  # noqa: ANN401 - gguf.GGUFReader
    """Raise StageError unless an open GGUF file says what it shall."""
    wrong = [key for key, value in says.items() if read_metadata(reader, key) != value]
    if wrong:
        raise StageError(f"{name} does not say {', '.join(wrong)} as it was told to; run the stage gguf again")
