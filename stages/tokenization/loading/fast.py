"""Texts -> ids, by the fastest library that gives the ids of the reference.

The reference is the `tokenizers` release that transformers pins, and what it gives is right by definition. Others are tens of
times faster (stages/tokenization/loading/fast_libraries.py). One is used where it proves to give the same ids:

- when it is opened, over texts that tell tokenizers apart (stages/tokenization/loading/probe_texts.py), the vocabulary's added tokens among them;
- characters of which the libraries know different Unicode tables (NEWER) are always left to the reference, with all of their text;
- `verify` compares rows of the data that is really tokenized.

So the ids are the reference's with and without them, and they are in no cache key.
"""

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from threading import RLock
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from stages.tokenization.loading.fast_libraries import LIBRARIES, Encode, Library, Loaded
from stages.tokenization.loading.probe_texts import probe_texts

log = logging.getLogger("retune")

Ids = npt.NDArray[np.int32]
Lengths = npt.NDArray[np.int64]
SlowEncode = Callable[[Sequence[str]], tuple[Ids, Lengths]]

NEWER = """
61D 7FD 88F 898-89F 8CA-8D3 8E0-8E1 9FD-9FE A76 AFD-AFF B55 C3C C5C C77 C84 CDC D3B-D3C EBA ECE 166D 1715 180F 1ABF-1AEB
1B4E-1B4F 1B7D-1B7F 1CF7 1DF6-1DFB 2E43-2E5D 32FF A7CE-A7D4 A7F1-A7F4 A82C AB69 10500-12FFF 13430-13455 16100-16FFF
187F8-187FF 18D09-18DF2 1CC00-1CF46 1E000-1E95F 1F16C 1FBF0-1FBF9 2B73A-2B73F 2CEA2-2CEAD 323B0-3FFFF
"""
"""Code points that the libraries may class or normalize differently: what came into Unicode after 2016, and above FFFF also what
stands between. tests/stages/tokenization/test_fast_unicode.py looks at every code point and names those that are missing here."""


class Differs(Exception):  # noqa: N818 - what was found, not an error
    """The fast library gave other ids than the reference for texts of the data. Start again with ReferenceEncoder(tokenizer)."""


class ReferenceEncoder:
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


class FastEncoder:
    """A fast library, with the reference for what it is not trusted with."""

    def __init__(self, library: Loaded, reference: ReferenceEncoder) -> None:
        self.library = library
        self.reference = reference
        self.newer = newer_code_points()

    def encode(self, texts: Sequence[str]) -> tuple[Ids, Lengths]:
        """As ReferenceEncoder.encode. Raises Differs if the library fails at a text."""
        return self.encode_each(texts, self.library.encode, self.reference.encode)

    def encode_plain(self, texts: Sequence[str]) -> tuple[Ids, Lengths]:
        """As ReferenceEncoder.encode_plain. Raises Differs if the library fails at a text."""
        if self.library.encode_plain is None:
            return self.reference.encode_plain(texts)
        return self.encode_each(texts, self.library.encode_plain, self.reference.encode_plain)

    def encode_each(self, texts: Sequence[str], fast: Encode, slow: SlowEncode) -> tuple[Ids, Lengths]:
        """The ids of the texts by `fast`, or by `slow` where it is not trusted with one. Raises Differs if it fails at one."""
        try:
            parts = [fast(text) if text.isascii() or not self.has_newer(text) else slow([text])[0] for text in texts]
        except BaseException as error:
            if not raised_by_library(error):
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


def open_encoder(source: bytes, reference: Tokenizer) -> ReferenceEncoder | FastEncoder:
    """The fastest encoder that gives the ids of `reference`; the log says once why it is not a fast one, if so.

    Args:
        source: tokenizer.json, which `reference` was made of.
        reference: without truncation and padding. It stays in use.
    """
    right = ReferenceEncoder(reference)
    reasons = []
    for library in LIBRARIES:
        if library.path().is_file():
            fast, reason = try_library(library, source, right)
            if fast:
                return fast
            reasons.append(f"{library.package}: {reason}")
    if reasons:
        log.info("no fast tokenizer can be used here (%s): the slower one does the work", "; ".join(reasons))
    else:
        log.warning(
            "the fast tokenizer is not installed, tokens take many times longer to make: `make setup` installs it"
        )
    return right


def try_library(library: Library, source: bytes, right: ReferenceEncoder) -> tuple[FastEncoder | None, str]:
    """A library's encoder, if it gives the reference's ids; else why it does not."""
    try:
        fast = FastEncoder(library.load(source), right)
        differing = count_differences(
            fast, right, probe_texts(token.content for token in added_tokens(right.tokenizer))
        )
    except BaseException as error:
        if not raised_by_library(error):
            raise
        return None, (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0][:200]
    return (None, f"other ids for {differing} probe texts") if differing else (fast, "")


def raised_by_library(error: BaseException) -> bool:
    """Whether the library raised it. What it calls a panic is no Exception, and neither is what stops the whole program."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def added_tokens(tokenizer: Tokenizer) -> list[Any]:
    """The added tokens, by id."""
    return [token for _, token in sorted(tokenizer.get_added_tokens_decoder().items())]


def count_differences(fast: FastEncoder, reference: ReferenceEncoder, texts: list[str]) -> int:
    """How many of the texts get other ids, with special tokens recognized or left as text."""
    found = 0
    for text in texts:
        # one at a time: a batch would start threads of the reference, and processes may be forked later
        same = fast.encode([text])[0].tolist() == reference.tokenizer.encode(text, add_special_tokens=False).ids
        if same and fast.library.encode_plain:
            with reference.special_tokens_as_text():
                right = reference.tokenizer.encode(text, add_special_tokens=False).ids
            same = fast.encode_plain([text])[0].tolist() == right
        found += not same
    return found


def newer_code_points() -> npt.NDArray[np.bool_]:
    """By code point, whether it is in NEWER."""
    table = np.zeros(sys.maxunicode + 1, dtype=bool)
    for line in NEWER.split():
        first, _, last = line.partition("-")
        table[int(first, 16) : int(last or first, 16) + 1] = True
    return table
