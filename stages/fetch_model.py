"""A base model and its tokenizer as they came: safetensors only, checked to be whole, no code, no pickles.

Reads  data/demo/base, data/custom_base/, or a model of the hub at a pinned revision
Writes data/base (config.json, *.safetensors, source.json), data/tokenizer (tokenizer.json, chat template ...)

    python -m stages.fetch_model --demo data/demo/base --custom data/custom_base --base data/base --tokenizer data/tokenizer
"""

import json
import logging
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator

from stages.contracts import base as contract
from stages.core.errors import StageError
from stages.core.execution import guard_notes, note_ran
from stages.core.files import sha256_file, write_json
from stages.core.params import Params
from stages.core.runner import Input, Output, run
from stages.fetching.hub import Revision, check_revision, download, list_files, read_cached_origin
from stages.models.safetensors_header import read_header

log = logging.getLogger("retune")

DEMO = "demo"
CUSTOM = "custom"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf")


class FetchModelParams(Params):
    """Which model is fine-tuned."""

    source: str
    """`demo`, `custom` (data/custom_base), or a model of the hub, OWNER/NAME. 16-bit safetensors with a tokenizer.json."""
    revision: Revision | None
    """The commit of a hub model, 40 hex characters; null for a local source."""

    @model_validator(mode="after")
    def check_source(self) -> Self:
        """A revision stands with a hub model, and only there."""
        check_revision(self.source, self.revision, local=self.source in (DEMO, CUSTOM))
        return self


@dataclass(frozen=True)
class ModelSource:
    """Where the files come from: the names there are, and how to get one."""

    name: str
    names: tuple[str, ...]
    get: Callable[[str], Path]
    """A path to the named file, its content as it should be. Raises StageError."""


def fetch_model(demo: Input, custom: Input, base: Output, tokenizer: Output, params: FetchModelParams) -> None:
    """Copy weights and configuration to data/base, the tokenizer's files to data/tokenizer; the small ones are checked before the large are fetched."""
    source = find_source(demo, custom, params)
    check_names(source)
    check_config(source)
    check_tokenizer(source)
    weights = weight_files(source)
    base.mkdir(parents=True)
    tokenizer.mkdir(parents=True)
    digests: dict[str, str] = {}
    for name in [contract.CONFIG, contract.GENERATION_CONFIG, contract.INDEX, *weights]:
        if name in source.names:
            digests[f"base/{name}"] = copy(source.get(name), base / name)
    for name in contract.TOKENIZER_FILES:
        if name in source.names:
            digests[f"tokenizer/{name}"] = copy(source.get(name), tokenizer / name)
    headers = {name: read_header(base / name, f"{source.name}: {name}") for name in weights}
    if contract.INDEX in source.names:
        check_shards(source.name, read_object(source, contract.INDEX)["weight_map"], headers)
    note_origin(source.get(contract.CONFIG), demo, custom)
    write_json(base / contract.SOURCE, {"source": params.source, "revision": params.revision, "files": digests})
    size = sum((base / name).stat().st_size for name in weights)
    log.info("%s: %d tensors, %.1f MB of weights", source.name, sum(map(len, headers.values())), size / 1e6)


@guard_notes
def note_origin(config: Path, demo: Path, custom: Path) -> None:
    """Note where the files came from for the execution record, by the path of the `config` that was read."""
    local = {demo: DEMO, custom: CUSTOM}.get(config.parent)
    name, revision = (local, None) if local else read_cached_origin(config) or (None, None)
    if name:
        note_ran({"fetch_model.source": name, "fetch_model.revision": revision})


def find_source(demo: Path, custom: Path, params: FetchModelParams) -> ModelSource:
    """The files of the chosen source. Raises StageError if they cannot be reached."""
    if params.source in (DEMO, CUSTOM):
        folder = demo if params.source == DEMO else custom
        names = tuple(sorted(path.name for path in folder.iterdir() if path.is_file())) if folder.is_dir() else ()
        return ModelSource(folder.name, names, lambda name: find_inside(folder, name))
    if params.revision is None:
        raise TypeError("FetchModelParams lets no hub source pass without a revision")
    source, revision = params.source, params.revision
    listing = list_files(source, revision, "model")
    return ModelSource(
        source,
        tuple(sorted(name for name in listing if "/" not in name)),
        lambda name: download(source, revision, "model", listing[name]),
    )


def find_inside(folder: Path, name: str) -> Path:
    """The named file of a folder. Raises StageError for a link that leads out of it."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise StageError(f"{folder.name}/{name} is a link out of the folder; put a copy there")
    return path


def check_names(source: ModelSource) -> None:
    """Raise StageError, before anything is fetched, if what a base needs is not there."""
    names = source.names
    if not [name for name in names if not name.startswith(".")]:
        raise StageError(f"{source.name} holds no files: a base is config.json, *.safetensors and tokenizer.json")
    if "adapter_config.json" in names and contract.CONFIG not in names:
        raise StageError(f"{source.name} is an adapter, not a base: name the base it belongs to, or merge it first")
    if contract.CONFIG not in names:
        raise StageError(f"{source.name} has no {contract.CONFIG}: it is no transformers model folder")
    if contract.WEIGHTS not in names and contract.INDEX not in names:
        others = [name for name in names if name.endswith(PICKLES)]
        found = (
            f"only {', '.join(others[:3])}, and pickled weights can run code when they are read"
            if others
            else "no weights"
        )
        raise StageError(
            f"{source.name} has neither {contract.WEIGHTS} nor {contract.INDEX}: {found}. Take a safetensors version of it "
            "(transformers' save_pretrained writes one)."
        )
    if contract.TOKENIZER not in names:
        slow = "a sentencepiece tokenizer.model alone" if "tokenizer.model" in names else "no tokenizer.json"
        raise StageError(
            f"{source.name} has {slow}; a fast tokenizer.json is needed. `AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)` of "
            "transformers writes it; then use the folder as data/custom_base."
        )


def check_config(source: ModelSource) -> None:
    """Raise StageError for a model that needs its own code, or whose weights are quantized already."""
    config = read_object(source, contract.CONFIG)
    if config.get("auto_map"):
        raise StageError(
            f"{source.name}: its config.json asks for code of its own (auto_map), which is never run. Take a model that transformers knows."
        )
    if config.get("quantization_config"):
        raise StageError(
            f"{source.name}: its weights are quantized already (quantization_config). Take the 16-bit model it was made from: training "
            "quantizes it on the fly, and merging needs the 16-bit weights."
        )
    if not isinstance(config.get("model_type"), str):
        raise StageError(f"{source.name}: its config.json names no model_type")


def check_tokenizer(source: ModelSource) -> None:
    """Raise StageError for a tokenizer that is broken or needs its own code."""
    if not isinstance(read_object(source, contract.TOKENIZER).get("model"), dict):
        raise StageError(f"{source.name}: {contract.TOKENIZER} is not a tokenizers file")
    name = "tokenizer_config.json"
    if name in source.names and read_object(source, name).get("auto_map"):
        raise StageError(f"{source.name}: its {name} asks for code of its own (auto_map), which is never run")


def weight_files(source: ModelSource) -> list[str]:
    """The safetensors files that make up the model. Raises StageError if the index names one that is not there."""
    if contract.INDEX not in source.names:
        return [contract.WEIGHTS]
    weight_map = read_object(source, contract.INDEX).get("weight_map")
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(shard, str) for shard in weight_map.values())
    ):
        raise StageError(f"{source.name}: {contract.INDEX} has no weight_map")
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if shard not in source.names or not shard.endswith(".safetensors")]
    if missing:
        raise StageError(
            f"{source.name}: {contract.INDEX} names {', '.join(missing[:3])}, not there as safetensors ({len(missing)} of {len(shards)} files)"
        )
    return shards


def check_shards(name: str, weight_map: Mapping[str, str], headers: Mapping[str, Collection[str]]) -> None:
    """Raise StageError unless every tensor of the index is in the file that it names."""
    missing = sum(tensor not in headers[shard] for tensor, shard in weight_map.items())
    if missing:
        raise StageError(
            f"{name}: {missing} of the index's {len(weight_map)} tensors are not in the files it names: from different versions?"
        )


def read_object(source: ModelSource, name: str) -> Mapping[str, Any]:
    """A JSON file of the source as an object. Raises StageError."""
    try:
        value = json.loads(source.get(name).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise StageError(f"{source.name}: {name} is not JSON: cut off or damaged") from error
    if not isinstance(value, dict):
        raise StageError(f"{source.name}: {name} is no JSON object")
    return value


def copy(found: Path, target: Path) -> str:
    """Copy a file's bytes (through a link, into a plain file); the sha256 of the copy."""
    shutil.copyfile(found, target)
    return sha256_file(target)


def uses(params: FetchModelParams, inputs: Mapping[str, Path]) -> dict[str, list[str]]:
    """Of the folder that `source` names what a model is made of, and nothing of the other; of neither for a model of the hub."""
    kept = {contract.CONFIG, contract.GENERATION_CONFIG, contract.INDEX, *contract.TOKENIZER_FILES}
    folders = {"demo": DEMO, "custom": CUSTOM}
    return {
        key: [path.name for path in inputs[key].iterdir() if path.name in kept or path.suffix == ".safetensors"]
        if params.source == name
        else []
        for key, name in folders.items()
    }


if __name__ == "__main__":
    run(fetch_model, uses)
