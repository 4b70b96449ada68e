"""The bytes that each token of a vocabulary stands for: what shows that tokens spell a text. Pure."""

import re

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

NO_BYTE = 0xFFFF
"""No byte: a character that latin-1 does not know."""
BYTE = re.compile("<0x([0-9A-F]{2})>")
"""How vocabularies of text write a byte that is no character of theirs."""
BLANK = "\u2581"
"""How they write a blank."""


def read_token_bytes(tokenizer: Tokenizer, tokens: list[str]) -> pa.LargeBinaryArray | None:
    """By id the bytes of each token, in a vocabulary of bytes (Llama 3, Qwen) or of text with BLANK (Gemma); else None.

    `tokens`: by id. No proof is needed that the vocabulary is one of them: every row's bytes are compared with its text.
    """
    added = {index: token.content for index, token in tokenizer.get_added_tokens_decoder().items()}
    # the content of an added token is text; written with the characters for its bytes it can be read with the others
    own = [spell_byte_level(added[index]) if index in added else token for index, token in enumerate(tokens)]
    try:
        data = "".join(own).translate(BYTE_ALPHABET).encode("latin-1")
        return binary_array(data, list(map(len, own)))
    except UnicodeEncodeError:
        if not any(BLANK in token for token in tokens):
            return None
    spelled = [
        added[index].encode()
        if index in added
        else bytes([int(byte[1], 16)])
        if (byte := BYTE.fullmatch(token))
        else token.replace(BLANK, " ").encode()
        for index, token in enumerate(tokens)
    ]
    return binary_array(b"".join(spelled), list(map(len, spelled)))


def binary_array(data: bytes, lengths: list[int]) -> pa.LargeBinaryArray:
    """Byte strings as Arrow has them, out of their bytes and lengths: `pa.array` of a list would import pandas, 0.2 s."""
    offsets = np.cumsum([0, *lengths])
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(lengths), [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )


def spell_byte_level(content: str) -> str:
    """A text as a byte-level vocabulary writes its bytes."""
    return content.encode().decode("latin-1").translate(SPELLINGS)


def byte_alphabet() -> dict[int, int]:
    """For each byte the character that byte-level vocabularies write, itself if it is visible, else one from U+0100 on: {character: byte}."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    # a byte that is written as another character is none itself: a character without a byte, which ends the reading
    none = dict.fromkeys(hidden, NO_BYTE)
    return none | {byte: byte for byte in visible} | {0x100 + rank: byte for rank, byte in enumerate(hidden)}


BYTE_ALPHABET = byte_alphabet()
SPELLINGS = {byte: character for character, byte in BYTE_ALPHABET.items() if byte != NO_BYTE}
