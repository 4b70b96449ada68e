"""A tokenizer's folder: read as it came, changed as little as a chat needs, written so that AutoTokenizer gives the same ids.

tokenizer.json is copied byte by byte, or gets entries in `added_tokens` and nothing else: one that a library saved again
may split text in another way. tokenizer_config.json is rewritten: the special tokens, the class that takes tokenizer.json
as it is, and no code from elsewhere.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from stages.contracts.base import TOKENIZER, TOKENIZER_FILES
from stages.core.errors import StageError
from stages.core.files import write_json, write_text

CONFIG = "tokenizer_config.json"
TOKENS_MAP = "special_tokens_map.json"
TEMPLATE = "chat_template.jinja"

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The special tokens that a chat template may read, as transformers names them."""

PAD_NAMES = ("<|finetune_right_pad_id|>", "<|pad|>", "<pad>", "[PAD]", "<|PAD_TOKEN|>", "<|vision_pad|>")
RESERVED = re.compile(r"(?i)reserved|unused|padding|placeholder")
NEW_PAD = "<|pad|>"


@dataclass(frozen=True)
class TokenizerFolder:
    """A tokenizer as it stands in a folder."""

    source: bytes
    """tokenizer.json"""
    config: Mapping[str, Any]
    tokens: Mapping[str, str]
    """The special tokens by name: {"bos_token": "<s>"}."""
    chat_template: str | None
    others: Mapping[str, bytes]
    """Further files that other programs read (tokenizer.model, vocab.json ...), untouched."""


def read_tokenizer_folder(folder: Path) -> TokenizerFolder:
    """Read data/tokenizer. Raises StageError if tokenizer.json is missing or a file is broken."""
    source = folder / TOKENIZER
    if not source.is_file():
        msg = (
            f"{folder.name}/{TOKENIZER} is missing: only tokenizers of the `tokenizers` library are read; "
            "load it once with AutoTokenizer, save_pretrained it into the base model's folder, and run again"
        )
        raise StageError(msg)
    config = read_mapping(folder / CONFIG)
    known = {name: token_text(config.get(name)) for name in NAMED_TOKENS}
    listed = {
        name: token_text(value) for name, value in read_mapping(folder / TOKENS_MAP).items() if name in NAMED_TOKENS
    }
    # transformers reads the older file only where the newer one lists no tokens, and then it wins
    merged = {**listed, **known} if "added_tokens_decoder" in config else {**known, **listed}
    tokens = {name: (merged[name] or listed.get(name) or known.get(name)) for name in merged}
    kept = {name for name in TOKENIZER_FILES if (folder / name).is_file()}
    others = kept - {TOKENIZER, CONFIG, TOKENS_MAP, TEMPLATE, "chat_template.json"}
    return TokenizerFolder(
        source=source.read_bytes(),
        config=config,
        tokens={name: token for name, token in tokens.items() if token},
        chat_template=read_template(folder, config),
        others={name: (folder / name).read_bytes() for name in sorted(others)},
    )


def read_mapping(path: Path) -> dict[str, Any]:
    """A JSON object, empty if the file is missing. Raises StageError if it is broken."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{path.parent.name}/{path.name} is not valid JSON; fetch the model again"
        raise StageError(msg) from error
    if not isinstance(value, dict):
        msg = f"{path.parent.name}/{path.name} must hold a JSON object; fetch the model again"
        raise StageError(msg)
    return value


def token_text(value: object) -> str | None:
    """A special token, written as a string or as {"content": ...}."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None


def read_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """The tokenizer's own chat template, from wherever transformers would take it; of several, the default."""
    path = folder / TEMPLATE
    if path.is_file():
        return path.read_text(encoding="utf-8")
    for value in (config.get("chat_template"), read_mapping(folder / "chat_template.json").get("chat_template")):
        if isinstance(value, list):
            named = {entry["name"]: entry["template"] for entry in value if isinstance(entry, dict)}
            return named.get("default")
        if isinstance(value, str):
            return value
    return None


def load_tokenizer(source: bytes) -> Tokenizer:
    """The tokenizer of a tokenizer.json, with neither truncation nor padding. Raises StageError if it cannot be read."""
    try:
        tokenizer: Tokenizer = Tokenizer.from_buffer(source)
    except Exception as error:  # the library raises a bare Exception
        msg = f"{TOKENIZER} cannot be read by the `tokenizers` library ({error}); fetch the model again, or use another"
        raise StageError(msg) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def add_tokens(source: bytes, tokens: Sequence[str]) -> bytes:
    """tokenizer.json with further special tokens behind the last id; nothing else is touched.

    Raises StageError if the library would give them other ids.
    """
    if not tokens:
        return source
    first = vocabulary_size(load_tokenizer(source))
    value = json.loads(source)
    value["added_tokens"] = [
        *value.get("added_tokens", []),
        *map(added_token, range(first, first + len(tokens)), tokens),
    ]
    extended = json.dumps(value, ensure_ascii=False, indent=2).encode()
    loaded = load_tokenizer(extended)
    if [loaded.token_to_id(token) for token in tokens] != list(range(first, first + len(tokens))):
        msg = f"{TOKENIZER} leaves ids unused, so that tokens cannot be added behind them; choose template.missing_control_tokens: text"
        raise StageError(msg)
    return extended


def added_token(index: int, content: str) -> dict[str, object]:
    """An entry of tokenizer.json's added_tokens: a special token that is always cut out whole."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": content, **flags, "special": True}


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """The highest id, plus one: the rows that an embedding must have."""
    return 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())


def writes_bos(tokenizer: Tokenizer, config: Mapping[str, Any], bos: str) -> bool:
    """Whether the tokenizer's own encoding puts the BOS before a text: tokenizer.json does it, or its class when told to."""
    index = tokenizer.token_to_id(bos)
    return index is not None and (config.get("add_bos_token") is True or tokenizer.encode("a").ids[:1] == [index])


def choose_pad(
    tokenizer: Tokenizer, tokens: Mapping[str, str], end_of_turn: str, written: Collection[str]
) -> str | None:
    """The padding token: never the one that ends a turn, or the model would never learn to stop. None: there is no fit one.

    In order: the tokenizer's own; one named so; a reserved or unused one; unk; BOS (which is at the start only, and masked
    where it pads). `written`: tokens that the template writes, and that are therefore no padding.
    """
    added = tokenizer.get_added_tokens_decoder()
    special = [added[index].content for index in sorted(added) if added[index].special]
    reserved = [token for token in special if RESERVED.search(token) and token not in written]
    own = [token] if (token := tokens.get("pad_token")) else []
    named = [token for token in PAD_NAMES if token in special]
    spare = [tokens[name] for name in ("unk_token", "bos_token") if name in tokens]
    for candidate in (*own, *named, *reserved, *spare):
        if candidate != end_of_turn and tokenizer.token_to_id(candidate) is not None:
            return candidate
    return None


def write_tokenizer_folder(
    folder: Path,
    came: TokenizerFolder,
    source: bytes,
    tokens: Mapping[str, str],
    chat_template: str,
    added: Sequence[str],
) -> None:
    """Write the folder that all later stages load."""
    folder.mkdir(parents=True)
    (folder / TOKENIZER).write_bytes(source)
    for name, data in came.others.items():
        (folder / name).write_bytes(data)
    write_text(folder / TEMPLATE, chat_template)
    dropped = {"chat_template", "auto_map", *NAMED_TOKENS, *(f"{name}_id" for name in NAMED_TOKENS)}
    config = {key: value for key, value in came.config.items() if key not in dropped}
    # other classes of transformers build their own splitting from the vocabulary and leave tokenizer.json's aside
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", **tokens}
    decoder = config.get("added_tokens_decoder")
    if isinstance(decoder, dict) and added:
        loaded = load_tokenizer(source)
        entries = {str(loaded.token_to_id(token)): added_token(0, token) for token in added}
        config["added_tokens_decoder"] = decoder | {
            index: {key: value for key, value in entry.items() if key != "id"} for index, entry in entries.items()
        }
    write_json(folder / CONFIG, config)
