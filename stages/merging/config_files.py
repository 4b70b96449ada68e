"""What lies beside the weights of a merged model: config.json, generation_config.json, the index of the shards."""

from pathlib import Path
from typing import Any

from stages.contracts import base as base_files
from stages.contracts import tokens as token_files
from stages.core.files import read_json, write_json
from stages.models.base_model import read_config, weight_files
from stages.models.safetensors_header import read_header


def resize_index(index: dict[str, Any], merged: Path) -> dict[str, Any]:
    """The base's index of shards with the size that the merged shards have."""
    tensors = (tensor for file in weight_files(merged) for tensor in read_header(file).values())
    size = sum(tensor.stop - tensor.start for tensor in tensors)
    return {**index, "metadata": {**index.get("metadata", {}), "total_size": size}}


def write_settings(base: Path, tokens: Path, merged: Path, embedding_rows: int) -> None:
    """config.json and generation_config.json: the base's, with the size of the vocabulary and the tokens that begin, end and pad."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokens / token_files.TOKENIZER, local_files_only=True)
    generation = base / base_files.GENERATION_CONFIG
    settings: dict[str, Any] = read_json(generation) if generation.exists() else {}
    config = dict(read_config(base))
    ends = end_ids(tokenizer.eos_token_id, settings.get("eos_token_id"), config.get("eos_token_id"))
    special: dict[str, int | list[int]] = {}
    if ends:
        special["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    if tokenizer.bos_token_id is not None:
        special["bos_token_id"] = tokenizer.bos_token_id
    if tokenizer.pad_token_id is not None:
        special["pad_token_id"] = tokenizer.pad_token_id
    write_json(merged / base_files.GENERATION_CONFIG, {**settings, **special})
    write_json(merged / base_files.CONFIG, {**config, **special, "vocab_size": embedding_rows})


def end_ids(*found: object) -> list[int]:
    """Every end-of-text id that tokenizer and base name, each once, the tokenizer's end of turn first."""
    ids: list[int] = []
    for value in found:
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and number not in ids:
                ids.append(number)
    return ids
