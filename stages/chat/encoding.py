"""Dialogues -> `input_ids` + `labels`, in one pass, pure: no file, no torch, no transformers.

The labels are the assistant's turns as the template renders them, each with the token that ends it; nothing else. In order:

    render, mark  a dialogue -> its text, and where the answers stand in it                  marking.py
    encode        the texts of a batch -> ids, by the fastest encoder that is exact          here
    prove         where the answers stand in the ids, or the row is refused                  span_proof.py
    label         those that are to be trained                                               here

A row for which a step cannot be done is refused with the name of a rule (row_rules.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from stages.chat.chat import Chat, Ids, Places
from stages.chat.marking import Rendered, mark_answers
from stages.chat.rendering import Dialogue
from stages.chat.row_rules import NOTHING_TO_TRAIN
from stages.chat.span_proof import prove_spans
from stages.chat.span_trace import TokenSpan
from stages.contracts.tokens import NOT_TRAINED

TrainOn = Literal["all_assistant_turns", "last_assistant_turn"]


class EncodedRow(NamedTuple):
    """One encoded dialogue."""

    input_ids: Ids
    labels: Ids
    """As long as input_ids: the id itself where it is trained, else NOT_TRAINED."""
    answer_ends: list[int]
    """Of every assistant turn, trained or not: the index after its end-of-turn token."""


@dataclass(frozen=True)
class Encoded:
    """A batch of encoded dialogues."""

    input_ids: Ids
    """Of all of them, one behind the other; those of refused rows, too."""
    labels: Ids
    offsets: Places
    """Where each row begins in both; one more than there are rows."""
    rules: list[str | None]
    """By row, the rule that refuses it, or None."""
    answer_ends: list[list[int]]
    """By row, the index in the row after each answer's end-of-turn token."""

    def row(self, index: int) -> EncodedRow | str:
        """One of them, or the rule that refuses it."""
        here = slice(self.offsets[index], self.offsets[index + 1])
        return self.rules[index] or EncodedRow(self.input_ids[here], self.labels[here], self.answer_ends[index])


def encode_dialogues(chat: Chat, dialogues: Sequence[Dialogue], train_on: TrainOn, *, split: bool = False) -> Encoded:
    """Each dialogue as ids and labels, or the rule that refuses it; the same for any cut into batches.

    `split`: control tokens inside a content stay text instead of refusing the row.
    """
    marked = [mark_answers(chat.turns, dialogue, split=split) for dialogue in dialogues]
    rules = [one if isinstance(one, str) else None for one in marked]
    rows = [row for row, rule in enumerate(rules) if rule is None]
    rendered = [one for one in marked if isinstance(one, Rendered)]
    ids, lengths = encode_texts(chat, rendered)
    bounds = np.concatenate([[0], lengths.cumsum()])
    proven = prove_spans(chat, rendered, ids, bounds)

    labels = np.full_like(ids, NOT_TRAINED)
    answer_ends: list[list[int]] = [[] for _ in dialogues]
    for row, spans, start in zip(rows, proven, bounds[:-1].tolist(), strict=True):
        if isinstance(spans, str):
            rules[row] = spans
            continue
        answer_ends[row] = [end - start for _, end in spans]
        trained = choose_trained(dialogues[row], spans, train_on)
        if not trained:
            rules[row] = NOTHING_TO_TRAIN
        for begin, end in trained:
            labels[begin:end] = ids[begin:end]
    row_lengths = np.zeros(len(dialogues), np.int64)
    row_lengths[rows] = lengths
    return Encoded(ids, labels, np.concatenate([[0], row_lengths.cumsum()]), rules, answer_ends)


def choose_trained(dialogue: Dialogue, spans: list[TokenSpan], train_on: TrainOn) -> list[TokenSpan]:
    """The answers that bear loss, of all answers."""
    if dialogue.trained is None:
        return spans if train_on == "all_assistant_turns" else spans[-1:]
    flags = [
        flag
        for message, flag in zip(dialogue.messages, dialogue.trained, strict=True)
        if message["role"] == "assistant"
    ]
    if train_on == "last_assistant_turn":
        return spans[-1:] if flags[-1] else []
    return [span for span, flag in zip(spans, flags, strict=True) if flag]


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
