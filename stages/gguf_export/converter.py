"""llama.cpp's own converter, taught to ask us for the pre-tokenizer that it does not know. Runs in a process of its own.

Reads   a transformers folder
Writes  a GGUF file
Command python -m stages.gguf_export.converter FOLDER --outfile FILE --outtype bf16 (the converter's own flags)

A process of its own, since the converter brings another version of the `gguf` package and loads PyTorch.
"""

import importlib
import runpy
import sys
from pathlib import Path
from typing import Any

from stages.core.errors import StageError
from stages.core.parent_death import die_with_parent
from stages.llama_cpp.sources import find_sources
from stages.tokenization.exportable.vocabulary import name_pretokenizer

REFUSED = 3
"""The exit code that says: the last line is a StageError's text, meant for the user."""


def name_unknown_pretokenizers(base: Any) -> None:  # noqa: ANN401 - a module of llama.cpp's
    """Where the converter does not recognize a BPE tokenizer by its hash, name it by its splitting rule."""
    by_hash = base.TextModel.get_vocab_base_pre

    def by_rule(model: Any, tokenizer: Any) -> str:  # noqa: ANN401 - objects of llama.cpp's and transformers'
        try:
            name: str = by_hash(model, tokenizer)
        except NotImplementedError:
            return name_pretokenizer(Path(model.dir_model))
        return name

    base.TextModel.get_vocab_base_pre = by_rule


def main() -> None:
    """Run the converter with this process's arguments."""
    die_with_parent()
    folder = find_sources()
    sys.path[:0] = [str(folder / "gguf-py"), str(folder)]
    name_unknown_pretokenizers(importlib.import_module("conversion.base"))
    sys.argv[0] = str(folder / "convert_hf_to_gguf.py")
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    try:
        main()
    except StageError as error:
        sys.stdout.flush()
        print(error, file=sys.stderr)
        sys.exit(REFUSED)
