"""A chat template and a tokenizer together: what `stages/chat/encoding.py` encodes with. Pure: no file, no torch, no transformers."""

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import AddedToken, Tokenizer

from stages.chat.rendering import Template
from stages.chat.turns import PIPED, Turns, open_turns, written_control_tokens

Ids = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]

NO_BYTE = 0xFFFF
"""No byte: a character that latin-1 does not know."""
BYTE = re.compile("<0x([0-9A-F]{2})>")
"""How vocabularies of text write a byte that is no character of theirs."""


class Encoder(Protocol):
    """Texts to ids; stages/tokenization/loading/fast.py has it."""

    def encode(self, texts: Sequence[str]) -> tuple[Ids, Places]:
        """The ids of all texts, one behind the other, and how many each has; special tokens are recognized, none is added."""

    def encode_plain(self, texts: Sequence[str]) -> tuple[Ids, Places]:
        """The same with special tokens in a text left as text."""

    def verify(self, texts: Sequence[str], ids: Ids, lengths: Places) -> None:
        """Compare what `encode` gave for a sample of the texts with the reference; raises if they differ."""


@dataclass(frozen=True)
class Chat:
    """A template and a tokenizer, ready to encode. Make it with `open_chat`."""

    tokenizer: Tokenizer
    """The library that all others use: the reference, and the one that tells where a token stands."""
    encoder: Encoder
    turns: Turns
    controls: Container[int]
    """The ids of the control tokens."""
    is_special: npt.NDArray[np.bool_]
    """By token id: the control tokens, which are those that the tokenizer calls special, and added ones like `<|name|>`."""
    pieces: pa.LargeBinaryArray | None
    """The bytes of each token, where tokens spell bytes."""
    ids_of: dict[str, int]
    """The ids of control tokens that are cut out as they stand; those that swallow white space are not among them."""


def open_chat(tokenizer: Tokenizer, encoder: Encoder, template: Template, spelled: Sequence[str] = ()) -> Chat:
    """Look at what a template writes and how the tokenizer sees it.

    `spelled`: control tokens of the template that the vocabulary lacks and that stay plain text.
    Raises StageError if the template refuses a plain dialogue or writes nothing that ends an answer.
    """
    tokens = tokens_by_id(tokenizer)
    controls = control_tokens(tokenizer)
    is_special = np.zeros(len(tokens), dtype=bool)
    is_special[list(controls)] = True
    return Chat(
        tokenizer=tokenizer,
        encoder=encoder,
        turns=open_turns(template, [token.content for token in controls.values()], spelled),
        controls=controls.keys(),
        is_special=is_special,
        pieces=spelled_pieces(tokenizer, tokens),
        ids_of={
            token.content: index
            for index, token in controls.items()
            if not (token.lstrip or token.rstrip or token.single_word)
        },
    )


def control_tokens(tokenizer: Tokenizer) -> dict[int, AddedToken]:
    """By id, the tokens that the tokenizer calls special, and added ones that look like `<|name|>`."""
    added = tokenizer.get_added_tokens_decoder().items()
    return {index: token for index, token in added if token.special or PIPED.fullmatch(token.content)}


def tokens_by_id(tokenizer: Tokenizer) -> list[str]:
    """The vocabulary with its added tokens; an id that stands for nothing has an empty string."""
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    tokens = [""] * (1 + max(vocabulary.values()))
    for token, index in vocabulary.items():
        tokens[index] = token
    return tokens


def missing_control_tokens(template: Template, tokenizer: Tokenizer) -> list[str]:
    """The control tokens that a template writes around a plain dialogue and that are no single token of the vocabulary."""
    written = written_control_tokens(template)
    return [token for token in written if len(tokenizer.encode(token, add_special_tokens=False).ids) != 1]


def single_token(tokenizer: Tokenizer, controls: Container[int], end_of_turn: str) -> bool:
    """Whether the end of turn is one of the vocabulary's control tokens, whose ids are `controls`."""
    index = tokenizer.token_to_id(end_of_turn.strip())
    return index is not None and index in controls


def spelled_pieces(tokenizer: Tokenizer, tokens: list[str]) -> pa.LargeBinaryArray | None:
    """The bytes that each id stands for, in a vocabulary of bytes (Llama 3, Qwen) or of text with `\u2581` for blanks (Gemma); else None.

    No proof is needed that it is one of them: every row's pieces are compared with its text.
    """
    added = {index: token.content for index, token in tokenizer.get_added_tokens_decoder().items()}
    # the content of an added token is text; written with the characters for its bytes it can be read with the others
    own = [written_bytes(added[index]) if index in added else token for index, token in enumerate(tokens)]
    try:
        data = "".join(own).translate(BYTE_ALPHABET).encode("latin-1")
        return binary_array(data, list(map(len, own)))
    except UnicodeEncodeError:
        if not any("\u2581" in token for token in tokens):
            return None
    spelled = [
        added[index].encode()
        if index in added
        else bytes([int(byte[1], 16)])
        if (byte := BYTE.fullmatch(token))
        else token.replace("\u2581", " ").encode()
        for index, token in enumerate(tokens)
    ]
    return binary_array(b"".join(spelled), list(map(len, spelled)))


def binary_array(data: bytes, lengths: list[int]) -> pa.LargeBinaryArray:
    """Byte strings as Arrow has them, out of their bytes and lengths: `pa.array` of a list would import pandas, 0.2 s."""
    offsets = np.cumsum([0, *lengths])
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(lengths), [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )


def written_bytes(content: str) -> str:
    """A text as a byte-level vocabulary writes its bytes."""
    return content.encode().decode("latin-1").translate(WRITTEN)


def byte_alphabet() -> dict[int, int]:
    """For each byte the character that byte-level vocabularies write, itself if it is visible, else one from U+0100 on: {character: byte}."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    # a byte that is written as another character is none itself: a character without a byte, which ends the reading
    none = dict.fromkeys(hidden, NO_BYTE)
    return none | {byte: byte for byte in visible} | {0x100 + rank: byte for rank, byte in enumerate(hidden)}


BYTE_ALPHABET = byte_alphabet()
WRITTEN = {byte: character for character, byte in BYTE_ALPHABET.items() if byte != NO_BYTE}
