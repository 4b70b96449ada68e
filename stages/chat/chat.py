"""A chat template and a tokenizer together: what `stages/chat/encoding.py` encodes with. Pure: no file, no torch, no transformers."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import AddedToken, Tokenizer

from stages.chat.reasoning import Reasoning
from stages.chat.rendering import Template
from stages.chat.token_bytes import read_token_bytes
from stages.chat.turns import PIPED, Turns, open_turns, written_control_tokens

Ids = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]


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
    token_bytes: pa.LargeBinaryArray | None
    """By token id: the bytes that it stands for; None: tokens do not spell bytes."""
    ids_of: dict[str, int]
    """The ids of control tokens that are cut out as they stand; those that swallow white space are not among them."""
    prompt_ends: dict[bytes, bool] = field(default_factory=dict)
    """By the last ids of a prompt, from its last control token on: whether the prompt alone has them, too (stages/chat/prompt_proof.py)."""


def open_chat(
    tokenizer: Tokenizer,
    encoder: Encoder,
    template: Template,
    spelled: Sequence[str] = (),
    reasoning: Reasoning = "train",
) -> Chat:
    """Look at what a template writes and how the tokenizer sees it.

    `spelled`: control tokens of the template that the vocabulary lacks and that stay plain text. `reasoning`: template.reasoning.
    Raises StageError if the template refuses a plain dialogue or writes nothing that ends an answer.
    """
    tokens = tokens_by_id(tokenizer)
    controls = control_tokens(tokenizer)
    is_special = np.zeros(len(tokens), dtype=bool)
    is_special[list(controls)] = True
    return Chat(
        tokenizer=tokenizer,
        encoder=encoder,
        turns=open_turns(template, [token.content for token in controls.values()], spelled, reasoning),
        controls=controls.keys(),
        is_special=is_special,
        token_bytes=read_token_bytes(tokenizer, tokens),
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


def is_control_token(tokenizer: Tokenizer, controls: Container[int], end_of_turn: str) -> bool:
    """Whether the end of turn is one of the vocabulary's control tokens, whose ids are `controls`."""
    index = tokenizer.token_to_id(end_of_turn.strip())
    return index is not None and index in controls
