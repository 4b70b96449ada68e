"""A dialogue -> `input_ids` + `labels`, in one pass, pure: no file, no torch, no transformers.

The labels are the assistant's contents as the template renders them, each with the token that ends its turn; nothing
else. stages/spans.py says where they stand in the text; here the tokens are proven against it: each boundary is one
between tokens, and the labelled tokens spell content and end of turn. A row for which that cannot be shown is refused
with the name of a rule.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from stages.contracts.tokens import NOT_TRAINED
from stages.rendering import Message, Template
from stages.spans import (
    CONTROL_TOKEN_IN_CONTENT,
    PIPED,
    SPANS_UNVERIFIED,
    Span,
    Turns,
    open_turns,
    rendered_spans,
    written_control_tokens,
)

TrainOn = Literal["all_assistant_turns", "last_assistant_turn"]
Ids = npt.NDArray[np.int32]


class Row(NamedTuple):
    """One encoded dialogue."""

    input_ids: Ids
    labels: Ids
    """As long as input_ids: the id itself where it is trained, else NOT_TRAINED."""
    answer_ends: list[int]
    """Of every assistant turn, trained or not: the index after its end-of-turn token."""


@dataclass(frozen=True)
class Chat:
    """A template and a tokenizer, ready to encode. Make it with `open_chat`."""

    tokenizer: Tokenizer
    turns: Turns
    is_special: npt.NDArray[np.bool_]
    """By token id: the control tokens, which are those that the tokenizer calls special, and added ones like `<|name|>`."""
    pieces: list[bytes] | None
    """The bytes of each token, for a byte-level vocabulary."""
    piece_lengths: npt.NDArray[np.int64]


def open_chat(tokenizer: Tokenizer, template: Template, spelled: Sequence[str] = ()) -> Chat:
    """Look at what a template writes and how the tokenizer sees it.

    `spelled`: control tokens of the template that the vocabulary lacks and that stay plain text.
    Raises StageError if the template refuses a plain dialogue or writes nothing that ends an answer.
    """
    added = tokenizer.get_added_tokens_decoder()
    controls = {
        index: token.content for index, token in added.items() if token.special or PIPED.fullmatch(token.content)
    }
    size = max([tokenizer.get_vocab_size(with_added_tokens=True), *(index + 1 for index in added)])
    is_special = np.zeros(size, dtype=bool)
    is_special[list(controls)] = True
    pieces = byte_pieces(tokenizer, size)
    return Chat(
        tokenizer=tokenizer,
        turns=open_turns(template, controls.values(), spelled),
        is_special=is_special,
        pieces=pieces,
        piece_lengths=np.array([len(piece) for piece in pieces or []], dtype=np.int64),
    )


def missing_control_tokens(template: Template, tokenizer: Tokenizer) -> list[str]:
    """The control tokens that a template writes around a plain dialogue and that are no single token of the vocabulary."""
    written = written_control_tokens(template)
    return [token for token in written if len(tokenizer.encode(token, add_special_tokens=False).ids) != 1]


def encode_dialogues(chat: Chat, dialogues: Sequence[Sequence[Message]], train_on: TrainOn) -> list[Row | str]:
    """Each dialogue as a Row, or the name of the rule that refuses it; the same for any cut into batches."""
    results: list[Row | str] = []
    found: list[tuple[int, str, list[Span], int]] = []
    for index, dialogue in enumerate(dialogues):
        seen = rendered_spans(chat.turns, dialogue)
        results.append(seen if isinstance(seen, str) else "")
        if not isinstance(seen, str):
            found.append((index, *seen))
    encodings = chat.tokenizer.encode_batch_fast([text for _, text, _, _ in found], add_special_tokens=False)
    for (index, text, spans, control_tokens), encoding in zip(found, encodings, strict=True):
        results[index] = labelled(chat, encoding, text, spans, control_tokens, train_on)
    return results


def labelled(
    chat: Chat, encoding: Encoding, text: str, spans: list[Span], control_tokens: int, train_on: TrainOn
) -> Row | str:
    """The row of a text whose spans are known, once the tokens have been proven against it; or a rule."""
    ids: list[int] = encoding.ids
    input_ids = np.array(ids, dtype=np.int32)
    if int(chat.is_special[input_ids].sum()) != control_tokens:
        return CONTROL_TOKEN_IN_CONTENT
    places = spelled_places(chat, ids, input_ids, text, spans) or traced_places(chat, text, spans)
    if places is None:
        return SPANS_UNVERIFIED
    labels = np.full(len(ids), NOT_TRAINED, dtype=np.int32)
    for start, end in places if train_on == "all_assistant_turns" else places[-1:]:
        labels[start:end] = input_ids[start:end]
    return Row(input_ids, labels, [end for _, end in places])


def spelled_places(
    chat: Chat, ids: list[int], input_ids: Ids, text: str, spans: list[Span]
) -> list[tuple[int, int]] | None:
    """The spans in tokens, by the bytes of the tokens, which together must be the text's bytes; None if they are not."""
    if chat.pieces is None:
        return None
    data = text.encode()
    if b"".join([chat.pieces[index] for index in ids]) != data:
        return None
    ends = chat.piece_lengths[input_ids].cumsum()
    plain = len(data) == len(text)
    cuts = [cut for span in spans for cut in span]
    if not plain:
        cuts = byte_offsets(text, cuts)
    first = ends.searchsorted(cuts, side="left").tolist()
    places = []
    for number in range(0, len(cuts), 3):
        start, content_end, end = cuts[number : number + 3]
        begin = first[number] + 1 if start else 0
        stop = first[number + 2] + 1
        if start and ends[begin - 1] != start:
            return None
        if ends[stop - 1] != end:
            # an end of turn that is spelled out may share its last token with what follows: that token is not trained
            stop -= 1
            span = spans[number // 3]
            if single_token(chat, text[span.content_end : span.end]) or stop <= begin or ends[stop - 1] < content_end:
                return None
        places.append((begin, stop))
    return places


def byte_offsets(text: str, cuts: Sequence[int]) -> list[int]:
    """Character positions (rising) as positions in the text's UTF-8."""
    offsets = []
    at = total = 0
    for cut in cuts:
        total += len(text[at:cut].encode())
        at = cut
        offsets.append(total)
    return offsets


def traced_places(chat: Chat, text: str, spans: list[Span]) -> list[tuple[int, int]] | None:
    """The spans in tokens, by the tokenizer's own offsets, and proven by decoding them; None if one cannot be."""
    encoding = chat.tokenizer.encode(text, add_special_tokens=False)
    ids: list[int] = encoding.ids
    starts = np.array([start for start, _ in encoding.offsets], dtype=np.int64)
    ends = np.array([end for _, end in encoding.offsets], dtype=np.int64)
    places = []
    for span in spans:
        begin = int((ends <= span.start).sum())
        stop = int((starts < span.end).sum())
        if begin < stop and starts[begin] < span.start:
            return None
        written = text[span.start : span.end]
        exact = single_token(chat, text[span.content_end : span.end])
        if exact and (stop <= begin or not chat_ends_at(chat, ids[stop - 1], written, int(starts[stop - 1]), span)):
            return None
        if not exact:
            while stop > begin and ends[stop - 1] > span.end:
                stop -= 1
            if stop <= begin or ends[stop - 1] < len(text[: span.content_end].rstrip()):
                return None
            written = text[span.start : int(ends[stop - 1])]
        if not spells(chat, ids, begin, stop, written):
            return None
        places.append((begin, stop))
    return places


def chat_ends_at(chat: Chat, token: int, written: str, start: int, span: Span) -> bool:
    """Whether the last token of a span is its end-of-turn token (its offsets may reach over white space that it swallows)."""
    content: str = chat.tokenizer.decode([token], skip_special_tokens=False)
    return start >= span.content_end and written.endswith(content.strip())


def spells(chat: Chat, ids: list[int], begin: int, stop: int, written: str) -> bool:
    """Whether ids[begin:stop] decode to `written`, or to what the tokenizer's Unicode normalizer makes of it.

    Decoders drop a blank at the very start of a text, so a token before the span goes along, and is taken off again.
    """
    decode = functools.partial(chat.tokenizer.decode, skip_special_tokens=False)
    head: str = decode(ids[max(begin - 1, 0) : begin])
    whole: str = decode(ids[max(begin - 1, 0) : stop])
    if not whole.startswith(head):
        return False
    body = whole[len(head) :]
    normalizer = chat.tokenizer.normalizer
    return body == written or (normalizer is not None and body == normalizer.normalize_str(written))


def single_token(chat: Chat, end_of_turn: str) -> bool:
    """Whether the end of turn is one special token of the vocabulary."""
    index = chat.tokenizer.token_to_id(end_of_turn.strip())
    return index is not None and bool(chat.is_special[index])


def byte_pieces(tokenizer: Tokenizer, size: int) -> list[bytes] | None:
    """The bytes that each id of a byte-level vocabulary stands for; None for another kind of vocabulary.

    No proof is needed that it is one: every row's pieces are compared with its text.
    """
    alphabet = byte_alphabet()
    added = {index: token.content for index, token in tokenizer.get_added_tokens_decoder().items()}
    pieces = [b""] * size
    for token, index in tokenizer.get_vocab(with_added_tokens=False).items():
        if index in added:
            continue
        try:
            pieces[index] = bytes([alphabet[character] for character in token])
        except KeyError:
            return None
    for index, content in added.items():
        pieces[index] = content.encode()
    return pieces


def byte_alphabet() -> dict[str, int]:
    """The character that byte-level vocabularies write for each byte: itself if it is visible, else one from U+0100 on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + rank): byte for rank, byte in enumerate(hidden)}
