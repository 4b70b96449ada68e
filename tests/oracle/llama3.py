"""The real Llama-3 vocabulary and the official chat templates of many families, from a package source; nothing of it is in git.

Both lie in the source release of llama-cpp-python on the package index. The first use fetches it with pip (76 MB, about
10 s), checks its sha256, takes the files out and makes a tokenizer folder of them, in a cache outside the checkout:
$XDG_CACHE_HOME/retune or ~/.cache/retune, by version.

run     python -m tests.oracle.llama3        prints the folder
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"

MODELS = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/models"
VOCABULARY = "ggml-vocab-llama-bpe.gguf"
TEXTS, TEXT_IDS = VOCABULARY + ".inp", VOCABULARY + ".out"
"""llama.cpp's own texts for this vocabulary and their ids."""
TEMPLATE = "meta-llama-Llama-3.2-3B-Instruct.jinja"
WANTED = {
    f"{MODELS}/{VOCABULARY}": VOCABULARY,
    f"{MODELS}/{TEXTS}": TEXTS,
    f"{MODELS}/{TEXT_IDS}": TEXT_IDS,
    f"{MODELS}/templates/{TEMPLATE}": TEMPLATE,
}
TEMPLATES = "templates"
"""The folder of all chat templates that llama.cpp's source holds."""
TOKENIZER = "tokenizer"
LAYOUT = 2
"""Raised when what is made of the files changes."""

PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""Llama 3's split of a text into words; a GGUF file names it ("llama-bpe") and does not hold it."""


class UnreachableError(Exception):
    """The package index did not give the source release."""


def folder() -> Path:
    """The cache folder with the four files, `templates/` and `tokenizer/`. Raises UnreachableError if it must be fetched and cannot."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "retune"
    made = cache / f"llama3-{VERSION}-{LAYOUT}"
    if made.is_dir():
        return made
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as work:
        files = Path(work) / "files"
        files.mkdir()
        take_out(fetch(Path(work)), files)
        write_tokenizer(files / VOCABULARY, (files / TEMPLATE).read_text(encoding="utf-8"), files / TOKENIZER)
        try:
            files.rename(made)
        except OSError:
            if not made.is_dir():  # somebody else was faster, which is as good
                raise
    return made


def fetch(work: Path) -> Path:
    """Fetch the source release through pip, as it is configured here, hash checked. Raises UnreachableError."""
    venv.create(work / "venv", with_pip=True)
    wanted = work / "wanted.txt"
    wanted.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n")
    command = [str(work / "venv/bin/python"), "-m", "pip", "--no-input", "--disable-pip-version-check", "download"]
    options = [
        "--no-deps",
        "--no-binary",
        PACKAGE,
        "--require-hashes",
        "--dest",
        str(work / "sdist"),
        "-r",
        str(wanted),
    ]
    try:
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False, timeout=600)
    except subprocess.TimeoutExpired as error:
        raise UnreachableError("pip took more than 600 s") from error
    if done.returncode:
        raise UnreachableError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "pip failed")
    (release,) = (work / "sdist").iterdir()
    return release


def take_out(release: Path, files: Path) -> None:
    """The wanted members of the archive, by name, as files of ours."""
    (files / TEMPLATES).mkdir()
    with tarfile.open(release) as archive:
        for member, name in WANTED.items():
            source = archive.extractfile(member)
            if source is None:
                raise FileNotFoundError(member)
            with source, (files / name).open("wb") as target:
                shutil.copyfileobj(source, target)
        for entry in archive.getmembers():
            if entry.name.startswith(f"{MODELS}/templates/") and entry.name.endswith(".jinja"):
                source = archive.extractfile(entry)
                if source is not None:
                    (files / TEMPLATES / Path(entry.name).name).write_bytes(source.read())


def write_tokenizer(vocabulary: Path, template: str, target: Path) -> None:
    """A tokenizer folder such as the one that Llama 3.2 Instruct comes with, made of the vocabulary.

    Not through transformers' own reader of GGUF files: it splits texts as GPT-2 does, and takes 50 s.
    """
    from gguf import GGUFReader, TokenType

    fields = GGUFReader(vocabulary).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    merges = fields["tokenizer.ggml.merges"].contents()
    controls = [index for index, kind in enumerate(kinds) if kind == TokenType.CONTROL]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    bos = "<|begin_of_text|>"
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    first = {"SpecialToken": {"id": bos, "type_id": 0}}
    add_bos = {
        "type": "TemplateProcessing",
        "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [first, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos: {"id": bos, "ids": [tokens.index(bos)], "tokens": [bos]}},
    }
    value = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index, "content": tokens[index], **flags} for index in controls],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": {"type": "Sequence", "processors": [byte_level | {"use_regex": True}, add_bos]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {token: index for index, token in enumerate(tokens) if kinds[index] != TokenType.CONTROL},
            "merges": merges,
        },
    }
    config = {
        "bos_token": bos,
        "eos_token": "<|eot_id|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 131072,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    target.mkdir()
    (target / "tokenizer.json").write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    (target / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    (target / "chat_template.jinja").write_text(template, encoding="utf-8")


if __name__ == "__main__":
    try:
        print(folder())  # noqa: T201 - its answer
    except UnreachableError as reason:
        sys.exit(f"{PACKAGE} {VERSION} cannot be fetched: {reason}")
