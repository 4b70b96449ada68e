"""Which files of a dataset, on the hub or in a folder, make up one config and split: by its card's `configs`, else by the hub's naming
habits; pure functions. No code of the dataset is run, and no file outside of it is named.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.core.errors import StageError
from stages.dataset_files.file_kinds import KNOWN, ending_of

SHARD = re.compile(r"data/(?P<split>\w+(?:\.\w+)*)-\d{5}-of-\d{5}[^/]*\.\w+")
KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
WORD_ENDS = re.compile(r"[-._ 0-9]+")
CACHE = re.compile(r"(cache|tmp)-?[0-9a-z_]*\.arrow")
"""What `datasets` leaves beside the shards of a folder that it worked on."""
NO_DATA = {"config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}


def choose_files(
    where: str, paths: Sequence[str], card: str | None, config: str | None, split: str | None
) -> list[str]:
    """The data files of one config and split, in their order.

    Args:
        where: what errors call the dataset.
        paths: every file of it.
        card: the text of its README.md, or None.
        config: the config's name; None where there is one, or a default.
        split: the split's name; None where there is one, or where nothing speaks of splits: all files.

    Raises:
        StageError: no such config or split (with the ones there are), several to choose from, or no file of a known kind.
    """
    chosen = choose_config(where, read_configs(where, card), config)
    by_split = find_splits(where, paths, chosen)
    known = ", ".join(sorted(by_split))
    if not by_split:
        code = " It has a loading script, which is never run." if any(path.endswith(".py") for path in paths) else ""
        raise StageError(f"{where} holds no file that ends in {KNOWN}.{code} Convert it and put it into data/custom.")
    if split is None and len(by_split) > 1:
        raise StageError(f"{where} has the splits {known}: set `split` to one of them (two can be two sources)")
    if split is not None and split not in by_split:
        raise StageError(f"{where} has no split {split!r}; `split` may be {known}")
    if split is None and not chosen:
        files = sorted(path for path in paths if is_data(path))
    else:
        files = by_split[split or known]
    endings = sorted({ending_of(file) or PurePosixPath(file).suffix for file in files})
    if unknown := [ending for ending in endings if not ending_of(ending)]:
        raise StageError(f"{where}: files to be read end in {', '.join(unknown)}; known are {KNOWN}")
    if len(endings) > 1:
        raise StageError(
            f"{where}: its files are of several kinds ({', '.join(endings)}): which of them are its rows is not clear. Keep those of "
            "one kind, or name one file or folder of data/custom in fetch_data.sources (several may be sources of their own)."
        )
    return files


def read_configs(where: str, card: str | None) -> list[Mapping[str, object]]:
    """The `configs` list of the card's YAML header; empty where there is none. Raises StageError for a header that is no YAML."""
    header = re.match(r"---\s*\n(.*?)\n---\s*(?:\n|$)", (card or "").lstrip("\ufeff").replace("\r\n", "\n"), re.DOTALL)
    if not header:
        return []
    try:
        values = YAML(typ="safe", pure=True).load(header[1])
    except YAMLError as error:
        raise StageError(f"{where}: the YAML header of its README.md cannot be read") from error
    configs = values.get("configs") if isinstance(values, dict) else None
    return [config for config in configs if isinstance(config, dict)] if isinstance(configs, list) else []


def choose_config(where: str, configs: Sequence[Mapping[str, object]], name: str | None) -> Mapping[str, object]:
    """The named config, or the only or default one; empty where the dataset declares none. Raises StageError, which lists them."""
    by_name = {str(config.get("config_name", "default")): config for config in configs}
    if name is not None:
        if name not in by_name:
            known = f"it has {', '.join(sorted(by_name))}" if by_name else "it declares none: set `config` to null"
            raise StageError(f"{where} has no config {name!r}; {known}")
        return by_name[name]
    if len(by_name) <= 1:
        return next(iter(by_name.values()), {})
    default = next((config for config in configs if config.get("default") is True), by_name.get("default"))
    if default is None:
        raise StageError(f"{where} has several configs; set `config` to one of {', '.join(sorted(by_name))}")
    return default


def find_splits(where: str, paths: Iterable[str], config: Mapping[str, object]) -> dict[str, list[str]]:
    """{split: files} of a config: its `data_files`, else by name below its `data_dir`."""
    folder = str(config.get("data_dir") or "").strip("/")
    inside = sorted(path for path in paths if not folder or path.startswith(f"{folder}/"))
    if "data_files" in config:
        return find_declared_splits(where, inside, config["data_files"], folder)
    data = [path for path in inside if is_data(path)]
    shards = [(match["split"], path) for path in data if (match := SHARD.fullmatch(path))]
    named = shards or [
        *((split, path) for path in data if (split := keyword_split(PurePosixPath(path).parts[:-1]))),
    ]
    named = named or [(split, path) for path in data if (split := keyword_split(PurePosixPath(path).parts[-1:]))]
    named = named or [("train", path) for path in data]
    splits: dict[str, list[str]] = {}
    for split, path in named:
        splits.setdefault(split, []).append(path)
    return splits


def find_declared_splits(where: str, paths: Sequence[str], data_files: object, folder: str) -> dict[str, list[str]]:
    """{split: files} of a card's `data_files`: a pattern, a list of patterns, or a list of {split, path}."""
    entries = data_files if isinstance(data_files, list) else [data_files]
    splits: dict[str, list[str]] = {}
    for entry in entries:
        split = str(entry.get("split", "train")) if isinstance(entry, dict) else "train"
        patterns = entry.get("path") if isinstance(entry, dict) else entry
        for pattern in patterns if isinstance(patterns, list) else [patterns]:
            if not isinstance(pattern, str) or ":" in pattern or pattern.startswith("/") or ".." in pattern:
                raise StageError(f"{where}: its card names files outside of its own revision, which are not fetched")
            wanted = compile_glob(f"{folder}/{pattern}" if folder else pattern.removeprefix("./"))
            files = splits.setdefault(split, [])
            files += [path for path in paths if wanted.fullmatch(path) and path not in files]
    return {split: files for split, files in splits.items() if files}


def is_data(path: str) -> bool:
    """Whether a file may hold rows: of a known kind, not hidden, not one of the hub's own."""
    parts = PurePosixPath(path)
    return (
        bool(ending_of(path))
        and parts.name not in NO_DATA
        and not CACHE.fullmatch(parts.name)
        and not any(part.startswith((".", "__")) for part in parts.parts)
    )


def keyword_split(names: Iterable[str]) -> str | None:
    """The split that a folder's or file's name speaks of as a word of its own (`my-train_v2`), or None."""
    words = {word for name in names for word in WORD_ENDS.split(name)}
    return next((split for split, keywords in KEYWORDS.items() if words & set(keywords)), None)


def compile_glob(pattern: str) -> re.Pattern[str]:
    """A path pattern as a regular expression: `*` and `?` within a name, `**` across folders, `[...]` as a set."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?[^\]]+\])", pattern)
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    sets = (f"[^{part[2:-1]}]" if part.startswith("[!") else part for part in parts)
    return re.compile(
        "".join(
            known.get(part) or (part if len(part) > 1 and part[0] == "[" and part[-1] == "]" else re.escape(part))
            for part in sets
        )
    )
