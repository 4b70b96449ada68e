"""Rendered dialogues -> ids: whole, cut at control tokens that stay text, or cut where an answer begins; pure."""

from collections.abc import Sequence

import numpy as np

from stages.chat.chat import Chat, Ids, Places
from stages.chat.marking import Rendered
from stages.chat.row_rules import PROMPT_TOKENS_DIFFER
from stages.chat.span_proof import ProvenSpan, prove_spans

Proven = list[list[ProvenSpan] | str]


def encode_texts(chat: Chat, rendered: Sequence[Rendered]) -> tuple[Ids, Places]:
    """The ids of all texts, one behind the other, and how many each has."""
    texts = [one.text for one in rendered]
    ids, lengths = chat.encoder.encode(texts)
    # a row of each batch: what the probe texts did not tell apart would show in the data itself
    chat.encoder.verify(texts[:1], ids[: lengths[:1].sum()], lengths[:1])
    if all(one.pieces is None for one in rendered):
        return ids, lengths
    rows = np.split(ids, lengths.cumsum()[:-1])
    for number, one in enumerate(rendered):
        if one.pieces is not None:
            rows[number] = encode_pieces(chat, one.pieces, rows[number])
    return np.concatenate(rows), np.array([len(row) for row in rows], np.int64)


def encode_pieces(chat: Chat, pieces: list[str], otherwise: Ids) -> Ids:
    """The ids of a text whose contents hold control tokens that stay text; `otherwise` where the tokenizer cannot do that."""
    plain, tokens = pieces[::2], pieces[1::2]
    if not all(token in chat.ids_of for token in tokens):
        return otherwise
    ids, lengths = chat.encoder.encode_plain(plain)
    rows = np.split(ids, lengths.cumsum()[:-1])
    parts = [rows[0]]
    for token, row in zip(tokens, rows[1:], strict=True):
        parts += [np.array([chat.ids_of[token]], np.int32), row]
    return np.concatenate(parts)


def encode_behind_prompt(
    chat: Chat, rendered: Sequence[Rendered], ids: Ids, lengths: Places, proven: Proven
) -> tuple[Ids, Places, Proven]:
    """The same, with the rows encoded anew whose last answer melts into its prompt: the prompt by itself, and the rest behind it.

    That is how a model comes to such a text (an answer that begins with a line end behind a header that ends with one): it gets the
    prompt's tokens, and begins with the line end.
    """
    melted = [
        row
        for row, spans in enumerate(proven)
        if rendered[row].pieces is None and not isinstance(spans, str) and spans[-1].rule == PROMPT_TOKENS_DIFFER
    ]
    if not melted:
        return ids, lengths, proven
    texts = [
        part
        for row in melted
        for start in [rendered[row].spans[-1].start]
        for part in split_at(rendered[row].text, start)
    ]
    parts, sizes = chat.encoder.encode(texts)
    pairs = np.split(parts, sizes.cumsum()[:-1])
    rows = np.split(ids, lengths.cumsum()[:-1])
    for place, row in enumerate(melted):
        rows[row] = np.concatenate(pairs[2 * place : 2 * place + 2])
    again = prove_spans(
        chat,
        [rendered[row] for row in melted],
        np.concatenate([rows[row] for row in melted]),
        sizes.reshape(-1, 2).sum(axis=1),
    )
    proven = list(proven)
    for row, spans in zip(melted, again, strict=True):
        proven[row] = spans
    return np.concatenate(rows), np.array([len(row) for row in rows], np.int64), proven


def split_at(text: str, place: int) -> tuple[str, str]:
    """A text cut in two."""
    return text[:place], text[place:]
