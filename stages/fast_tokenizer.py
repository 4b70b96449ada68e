"""Texts -> ids, by the fastest library that gives the ids of the reference.

The reference is the `tokenizers` release that transformers pins, and what it gives is right by definition. A newer release is
tens of times faster, and since transformers refuses it, it lives apart: `make setup` installs requirements-apart.lock into
`apart/` beside the environment's own packages. It is used where it proves to give the same ids:

- when it is opened, over texts that tell tokenizers apart (stages/probe_texts.py), the vocabulary's added tokens among them;
- characters of which the two know different Unicode tables (NEWER) are always left to the reference, with all of their text;
- `verify` compares rows of the data that is really tokenized.

So the ids are the reference's with and without it, and it is in no cache key.
"""

import importlib.util
import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from stages.probe_texts import probe_texts

log = logging.getLogger("retune")

Ids = npt.NDArray[np.int32]
Lengths = npt.NDArray[np.int64]

APART = "apart"
"""The folder below sys.prefix that holds the fast library."""
MODULE = "retune_tokenizers_apart"
"""Its name in this process: `tokenizers` is the reference."""

NEWER = """
61D 7FD 88F 898-89F 8CA-8D3 8E0-8E1 9FD-9FE A76 AFD-AFF B55 C3C C5C C77 C84 CDC D3B-D3C EBA ECE 166D 1715 180F 1ABF-1AEB
1B4E-1B4F 1B7D-1B7F 1CF7 1DF6-1DFB 2E43-2E5D 32FF A7CE-A7D4 A7F1-A7F4 A82C AB69 10500-12FFF 13430-13455 16100-16FFF
187F8-187FF 18D09-18DF2 1CC00-1CF46 1E000-1E95F 1F16C 1FBF0-1FBF9 2B73A-2B73F 2CEA2-2CEAD 323B0-3FFFF
"""
"""Code points that the libraries may class or normalize differently: what came into Unicode after 2016, and above FFFF also what
stands between. tests/stages/test_fast_tokenizer_unicode.py looks at every code point and names those that are missing here."""


class Differs(Exception):  # noqa: N818 - what was found, not an error
    """The fast library gave other ids than the reference for texts of the data. Start again with Reference(tokenizer)."""


class Reference:
    """The environment's own library, whose ids are right by definition."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.lock = RLock()

    def encode(self, texts: Sequence[str]) -> tuple[Ids, Lengths]:
        """The ids of all texts, one behind the other, and how many each has; special tokens are recognized, none is added."""
        found = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        return np.fromiter(chain.from_iterable(found), np.int32, int(lengths.sum())), lengths

    def encode_plain(self, texts: Sequence[str]) -> tuple[Ids, Lengths]:
        """The same with special tokens in a text left as text. Added tokens that are not special are tokens all the same."""
        with self.special_tokens_as_text():
            return self.encode(texts)

    @contextmanager
    def special_tokens_as_text(self) -> Iterator[None]:
        """A switch of the whole tokenizer: back as it was afterwards, and for one thread at a time."""
        with self.lock:
            before = self.tokenizer.encode_special_tokens
            self.tokenizer.encode_special_tokens = True
            try:
                yield
            finally:
                self.tokenizer.encode_special_tokens = before

    def verify(self, texts: Sequence[str], ids: Ids, lengths: Lengths) -> None:
        """Nothing to compare."""


class Fast:
    """The library that lives apart, with the reference for what it is not trusted with.

    One text at a time: that takes less CPU than its batches, and starts threads only for texts of 16 kB and more.
    """

    def __init__(self, tokenizer: Any, reference: Reference) -> None:  # noqa: ANN401 - a library without a name of its own
        self.tokenizer = tokenizer
        self.reference = reference
        self.newer = newer_code_points()

    def encode(self, texts: Sequence[str]) -> tuple[Ids, Lengths]:
        """As Reference.encode. Raises Differs if the library fails at a text."""
        return self.encoded(texts, plain=False)

    def encode_plain(self, texts: Sequence[str]) -> tuple[Ids, Lengths]:
        """As Reference.encode_plain. Raises Differs if the library fails at a text."""
        return self.encoded(texts, plain=True)

    def encoded(self, texts: Sequence[str], *, plain: bool) -> tuple[Ids, Lengths]:
        """Both of them."""
        options = {"add_special_tokens": False, "encode_special_tokens": plain, "padding": None, "truncation": None}
        encode = self.tokenizer.encode
        parts: list[npt.NDArray[Any]] = []
        try:
            for text in texts:
                if text.isascii() or not self.has_newer(text):
                    parts.append(encode(text, **options).ids_array)
                else:
                    parts.append((self.reference.encode_plain if plain else self.reference.encode)([text])[0])
        except BaseException as error:
            if not failed(error):
                raise
            raise Differs(f"the fast tokenizer failed at a text of the data ({type(error).__name__})") from error
        lengths = np.fromiter(map(len, parts), np.int64, len(parts))
        ids = np.concatenate(parts, dtype=np.int32, casting="unsafe") if parts else np.empty(0, np.int32)
        return ids, lengths

    def has_newer(self, text: str) -> bool:
        """Whether there is a character in it that the libraries may see differently."""
        return bool(self.newer[np.frombuffer(text.encode("utf-32-le"), np.uint32)].any())

    def verify(self, texts: Sequence[str], ids: Ids, lengths: Lengths) -> None:
        """Compare what `encode` gave for a sample of the data with the reference. Raises Differs."""
        right, right_lengths = self.reference.encode(texts)
        if not (np.array_equal(ids, right) and np.array_equal(lengths, right_lengths)):
            raise Differs("the fast tokenizer gave other ids than the reference for rows of the data")


def open_encoder(source: bytes, reference: Tokenizer) -> Reference | Fast:
    """The fastest encoder that gives the ids of `reference`; the log says once why it is not the fast one, if so.

    Args:
        source: tokenizer.json, which `reference` was made of.
        reference: without truncation and padding. It stays in use.
    """
    right = Reference(reference)
    path = Path(sys.prefix) / APART / "tokenizers" / "__init__.py"
    if not path.is_file():
        log.warning(
            "the fast tokenizer is not installed, tokens take many times longer to make: `make setup` installs it"
        )
        return right
    try:
        fast = Fast(load(path, source), right)
        differing = differences(fast, right, probe_texts(token.content for token in added_tokens(reference)))
    except BaseException as error:
        if not failed(error):
            raise
        reason = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0][:200]
        log.info(
            "the fast tokenizer cannot be used with this tokenizer.json (%s): the slower one does the work", reason
        )
        return right
    if differing:
        log.info("the fast tokenizer gives other ids for %d probe texts: the slower one does the work", differing)
        return right
    return fast


def failed(error: BaseException) -> bool:
    """Whether the library raised it. What it calls a panic is no Exception, and neither is what stops the whole program."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def added_tokens(tokenizer: Tokenizer) -> list[Any]:
    """The added tokens, by id."""
    return [token for _, token in sorted(tokenizer.get_added_tokens_decoder().items())]


def load(path: Path, source: bytes) -> Any:  # noqa: ANN401
    """A tokenizer of the library at `path`. Raises what the library raises if it cannot be loaded, or cannot read `source`."""
    library = sys.modules.get(MODULE)
    if library is None or library.__file__ != str(path):
        library = import_as(MODULE, path)
    with tempfile.NamedTemporaryFile(suffix=".json") as file:  # it reads files only
        file.write(source)
        file.flush()
        return library.Tokenizer.from_file(file.name)


def import_as(name: str, path: Path) -> ModuleType:
    """Import a package from its `__init__.py` under another name than its own."""
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=[str(path.parent)])
    if spec is None or spec.loader is None:
        raise ImportError("it is no Python package")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def differences(fast: Fast, reference: Reference, texts: list[str]) -> int:
    """How many of the texts get other ids, with special tokens recognized or left as text."""
    found = 0
    for text in texts:
        # one at a time: a batch would start threads of the reference, and processes may be forked later
        right = reference.tokenizer.encode(text, add_special_tokens=False).ids
        with reference.special_tokens_as_text():
            right_plain = reference.tokenizer.encode(text, add_special_tokens=False).ids
        same = fast.encode([text])[0].tolist() == right and fast.encode_plain([text])[0].tolist() == right_plain
        found += not same
    return found


def newer_code_points() -> npt.NDArray[np.bool_]:
    """By code point, whether it is in NEWER."""
    table = np.zeros(sys.maxunicode + 1, dtype=bool)
    for line in NEWER.split():
        first, _, last = line.partition("-")
        table[int(first, 16) : int(last or first, 16) + 1] = True
    return table
