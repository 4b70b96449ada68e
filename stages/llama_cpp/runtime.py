"""A GGUF file in llama.cpp's runtime: its tokenization, its logits for given ids, its answers."""

import ctypes
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from stages.core.errors import StageError
from stages.llama_cpp.library import LlamaBatch, load_library, take_errors

SMALL_MODEL = 50_000_000
"""Parameters below which one thread is faster than several: each of its matrix products is over before the others have woken."""


class Model:
    """An open GGUF file; a context manager, since it holds the weights and the attention cache of one sequence.

    Args:
        path: the GGUF file.
        context: the longest sequence, in tokens; the attention cache is made for it.
        threads: of the runtime.

    Raises:
        StageError: llama.cpp cannot load the file.
    """

    def __init__(self, path: Path, context: int, threads: int) -> None:
        self.library = load_library()
        take_errors()
        self.handle = self.library.llama_model_load_from_file(
            str(path).encode(), self.library.llama_model_default_params()
        )
        if not self.handle:
            raise StageError(f"llama.cpp does not load {path.name}: {take_errors() or 'no reason given'}")
        params = self.library.llama_context_default_params()
        params.words[0] = context
        self.context = self.library.llama_init_from_model(self.handle, params)
        if not self.context or self.library.llama_n_ctx(self.context) < context:
            self.library.llama_model_free(self.handle)
            raise StageError(
                f"llama.cpp opens no context of {context} tokens on {path.name}: {take_errors() or 'no reason given'}"
            )
        self.name = path.name
        self.step = min(512, self.library.llama_n_batch(self.context))
        self.vocab = self.library.llama_model_get_vocab(self.handle)
        self.vocab_size: int = self.library.llama_vocab_n_tokens(self.vocab)
        self.bos: int = self.library.llama_vocab_bos(self.vocab)
        self.eos: int = self.library.llama_vocab_eos(self.vocab)
        self.adds_bos: bool = self.library.llama_vocab_get_add_bos(self.vocab)
        used = threads if self.library.llama_model_n_params(self.handle) > SMALL_MODEL else 1
        self.library.llama_set_n_threads(self.context, used, used)

    def __enter__(self) -> Self:
        """The model itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free the weights and the attention cache."""
        self.library.llama_free(self.context)
        self.library.llama_model_free(self.handle)

    def apply_lora(self, path: Path) -> None:
        """Lay the adapter of a GGUF file over the model, in full strength. Raises StageError where llama.cpp refuses it."""
        handle = self.library.llama_adapter_lora_init(self.handle, str(path).encode())
        if not handle:
            raise StageError(
                f"llama.cpp does not load {path.name} over {self.name}: {take_errors() or 'no reason given'}"
            )
        # it is freed with the model
        adapters, scales = (ctypes.c_void_p * 1)(handle), (ctypes.c_float * 1)(1.0)
        if self.library.llama_set_adapters_lora(self.context, adapters, 1, scales) != 0:
            raise StageError(
                f"llama.cpp does not apply {path.name} to {self.name}: {take_errors() or 'no reason given'}"
            )

    def chat_template(self) -> str | None:
        """The Jinja template in the file."""
        text: bytes | None = self.library.llama_model_chat_template(self.handle, None)
        return text.decode("utf-8") if text is not None else None

    def ends(self, token: int) -> bool:
        """Whether an answer is over with this token (end of text, of turn, of message)."""
        return bool(self.library.llama_vocab_is_eog(self.vocab, token))

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        """Ids of a text; `add_special` adds what the file says to add (BOS), `parse_special` reads control tokens in the text."""
        data = text.encode("utf-8")
        capacity = len(data) + 2
        ids = (ctypes.c_int32 * capacity)()
        count = self.library.llama_tokenize(self.vocab, data, len(data), ids, capacity, add_special, parse_special)
        if count < 0:
            raise StageError(f"llama.cpp cannot tokenize with the vocabulary of {self.name}: {take_errors() or count}")
        return list(ids[:count])

    def piece(self, token: int) -> bytes:
        """The bytes of one token, nothing for a control token. A character may be spread over several tokens."""
        capacity = 64
        while True:
            buffer = ctypes.create_string_buffer(capacity)
            count = self.library.llama_token_to_piece(self.vocab, token, buffer, capacity, 0, False)  # noqa: FBT003 - a C call
            if count >= 0:
                return buffer.raw[:count]
            capacity = -count

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids, without control tokens; byte for byte, while llama.cpp's own detokenizer drops spaces before punctuation."""
        return b"".join(map(self.piece, ids)).decode("utf-8", "replace")

    def forget(self) -> None:
        """Start a new sequence: empty the attention cache."""
        self.library.llama_memory_clear(self.library.llama_get_memory(self.context), False)  # noqa: FBT003 - a C call

    def decode(self, ids: Sequence[int], first: int, wanted: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Logits after each wanted position of `ids`, which continue the sequence at position `first`; shape [wanted, vocabulary]."""
        rows = []
        for start in range(0, len(ids), self.step):
            part = np.ascontiguousarray(ids[start : start + self.step], dtype=np.int32)
            positions = np.arange(first + start, first + start + len(part), dtype=np.int32)
            mask = wanted[start : start + len(part)].astype(np.int8)
            batch = LlamaBatch(
                n_tokens=len(part),
                token=part.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
                pos=positions.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
                logits=mask.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
            )
            code = self.library.llama_decode(self.context, batch)
            if code != 0:
                raise StageError(
                    f"llama.cpp fails on {self.name} (llama_decode gave {code}): {take_errors() or 'no reason given'}"
                )
            for index in np.flatnonzero(mask):
                pointer = self.library.llama_get_logits_ith(self.context, int(index))
                rows.append(np.ctypeslib.as_array(pointer, shape=(self.vocab_size,)).copy())
        return np.stack(rows) if rows else np.empty((0, self.vocab_size), dtype=np.float32)

    def logits(self, ids: Sequence[int], wanted: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Logits of the next token after each wanted position of one sequence, float32, shape [wanted, vocabulary]."""
        self.forget()
        return self.decode(ids, 0, wanted)

    def generate(
        self, ids: Sequence[int], limit: int, temperature: float = 0.0, min_p: float = 0.0, seed: int = 0
    ) -> Iterator[int]:
        """Tokens of an answer, one by one, up to and with the one that ends it; at most `limit`.

        Temperature 0 takes the most likely token. Otherwise tokens below `min_p` times the most likely one's probability
        are left out, and one is drawn; the same seed draws the same.
        """
        draw = np.random.default_rng(seed)
        self.forget()
        part, position = list(ids), 0
        for _ in range(limit):
            last = np.zeros(len(part), dtype=np.bool_)
            last[-1] = True
            logits = self.decode(part, position, last)[0].astype(np.float64)
            position += len(part)
            if temperature > 0:
                odds = np.exp((logits - logits.max()) / temperature)
                # min_p is a rule on the model's own probabilities, before the temperature flattens or sharpens them
                odds[np.exp(logits - logits.max()) < min_p] = 0
                token = int(draw.choice(len(odds), p=odds / odds.sum()))
            else:
                token = int(logits.argmax())
            yield token
            if self.ends(token):
                return
            part = [token]
