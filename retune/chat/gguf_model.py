"""A GGUF file that talks: llama.cpp's runtime with the file's own tokenizer and chat template."""

import codecs
import ctypes
import datetime as dt
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retune.chat.dialogue import common_length
from retune.chat.gguf_files import read_stop_texts
from stages.chat.answer_form import find_answer_form
from stages.chat.reasoning import find_style
from stages.chat.rendering import Template, sandbox
from stages.chat.turns import PIPED, any_of
from stages.core.errors import StageError
from stages.core.value_differences import show_text
from stages.llama_cpp.runtime import Model

UNKNOWN, CONTROL, USER_DEFINED = 1, 8, 16
"""Bits of llama.cpp's `llama_token_attr`."""


class GgufSpeaker:
    """An open file as a `Speaker`. Make it with `open_gguf`."""

    def __init__(self, model: Model, context: int, stops: tuple[str, ...]) -> None:
        self.model = model
        self.kept: list[int] = []
        source = model.chat_template()
        if source is None:
            raise StageError(f"{show_text(model.name)} holds no chat template, so it is not known how to talk to it")
        texts = read_vocabulary(model)
        # the template's date is pinned in it, unless it is another's file
        render = sandbox(dt.datetime.now().astimezone().strftime).from_string(source)
        named = {
            "bos_token": model.bos,
            "eos_token": model.eos,
            "pad_token": call_integer(model, "llama_vocab_pad", model.vocab),
        }
        tokens = {name: texts[token][0] for name, token in named.items() if token >= 0}
        self.template = Template(render, {**render.globals, **tokens})
        controls = {token: text for token, (text, kind) in enumerate(texts) if is_control(text, kind)}
        self.special = any_of(controls.values())
        self.controls: Mapping[int, str] = controls
        self.style, thought = find_style(self.template)
        self.form = find_answer_form(self.template, thought)
        self.begin = model.bos if model.adds_bos else None
        self.stops = stops
        self.context = min(context, call_integer(model, "llama_model_n_ctx_train", model.handle) or context)

    def encode(self, text: str, *, plain: bool) -> list[int]:
        """As Speaker.encode."""
        return self.model.tokenize(text, parse_special=not plain)

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """As Speaker.logits; raises StageError if llama.cpp fails."""
        shared = common_length(self.kept, ids[:-1])
        if not shared or (shared < len(self.kept) and not forget_after(self.model, shared)):
            self.model.forget()
            shared = 0
        part = ids[shared:]
        last = np.zeros(len(part), dtype=np.bool_)
        last[-1] = True
        # what fails or is interrupted half way leaves nothing that is trusted
        self.kept = []
        found: NDArray[np.float32] = self.model.decode(part, shared, last)[0]
        self.kept = list(ids)
        return found

    def ends(self, token: int) -> bool:
        """As Speaker.ends."""
        return self.model.ends(token)

    def reader(self) -> Callable[[int], str]:
        """As Speaker.reader."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return lambda token: decoder.decode(self.model.piece(token))


@contextmanager
def open_gguf(path: Path, context: int, threads: int, lora: Path | None = None) -> Iterator[GgufSpeaker]:
    """Load a GGUF file.

    Args:
        path: the file; where a checks.json beside it speaks of it, the texts that end an answer are known from there.
        context: tokens of the longest dialogue.
        threads: of llama.cpp.
        lora: a file of an adapter alone, to lay over it.

    Raises:
        StageError: llama.cpp cannot load it, or it holds no chat template.
    """
    with Model(path, context, threads) as model:
        if lora:
            model.apply_lora(lora)
        yield GgufSpeaker(model, context, read_stop_texts(path))


def read_vocabulary(model: Model) -> list[tuple[str, int]]:
    """(text, kind) of every token."""
    text = c_function(model, "llama_vocab_get_text", ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int32)
    kind = c_function(model, "llama_vocab_get_attr", ctypes.c_int, ctypes.c_void_p, ctypes.c_int32)
    tokens = range(model.vocab_size)
    return [
        ((text(model.vocab, token) or b"").decode("utf-8", "replace"), kind(model.vocab, token)) for token in tokens
    ]


def is_control(text: str, kind: int) -> bool:
    """Whether a token may not come out of a content: as training has it, the special ones and added ones like `<|name|>`."""
    return bool(kind & (CONTROL | UNKNOWN)) or bool(kind & USER_DEFINED and re.fullmatch(PIPED, text))


def forget_after(model: Model, place: int) -> bool:
    """Take the tokens from `place` on out of the attention cache; False where this kind of model cannot."""
    memory = model.library.llama_get_memory(model.context)
    remove = c_function(
        model, "llama_memory_seq_rm", ctypes.c_bool, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32
    )
    return bool(remove(memory, 0, place, -1))


def call_integer(model: Model, name: str, handle: object) -> int:
    """What a function of llama.cpp's C API that takes one pointer says in numbers."""
    return int(c_function(model, name, ctypes.c_int32, ctypes.c_void_p)(handle))


def c_function(model: Model, name: str, result: object, *arguments: object) -> Callable[..., Any]:
    """A function of llama.cpp's C API beside those that the stages use (stages/llama_cpp/library.py)."""
    found: Any = getattr(model.library, name)
    found.restype, found.argtypes = result, list(arguments)
    called: Callable[..., Any] = found
    return called
