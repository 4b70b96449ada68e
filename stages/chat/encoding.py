"""Dialogues -> `input_ids` + `labels`, in one pass, pure: no file, no torch, no transformers.

The labels are the assistant's turns as the template renders them, each with the token that ends it; nothing else.
stages/chat/assistant_spans.py says where they stand in the text, stages/chat/span_proof.py where in the tokens. A row for which that cannot be shown is
refused with the name of a rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from stages.chat.assistant_spans import Rendered, rendered_spans
from stages.chat.chat import Chat, Ids, Places
from stages.chat.rendering import Dialogue
from stages.chat.row_rules import NOTHING_TO_TRAIN
from stages.chat.span_proof import Proof
from stages.contracts.tokens import NOT_TRAINED

TrainOn = Literal["all_assistant_turns", "last_assistant_turn"]


class Row(NamedTuple):
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

    def row(self, index: int) -> Row | str:
        """One of them, or the rule that refuses it."""
        rule = self.rules[index]
        here = slice(self.offsets[index], self.offsets[index + 1])
        return rule or Row(self.input_ids[here], self.labels[here], self.answer_ends[index])


def encode_dialogues(chat: Chat, dialogues: Sequence[Dialogue], train_on: TrainOn, *, split: bool = False) -> Encoded:
    """Each dialogue as ids and labels, or the rule that refuses it; the same for any cut into batches.

    `split`: control tokens inside a content stay text instead of refusing the row.
    """
    seen = [rendered_spans(chat.turns, dialogue, split=split) for dialogue in dialogues]
    rules = [found if isinstance(found, str) else None for found in seen]
    found = [(index, rendered) for index, rendered in enumerate(seen) if not isinstance(rendered, str)]
    ids, lengths = encoded_texts(chat, [rendered for _, rendered in found])
    proof = Proof(chat, [rendered for _, rendered in found], ids, lengths)
    all_lengths = np.zeros(len(dialogues) + 1, np.int64)
    answer_ends: list[list[int]] = [[] for _ in dialogues]
    trained = np.zeros(len(ids) + 1, np.int32)
    for number, (index, _) in enumerate(found):
        all_lengths[index + 1] = lengths[number]
        places = proof.places(number)
        if isinstance(places, str):
            rules[index] = places
            continue
        start = proof.starts[number]
        answer_ends[index] = [end - start for _, end in places]
        kept = kept_places(dialogues[index], places, train_on)
        if not kept:
            rules[index] = NOTHING_TO_TRAIN
        for begin, end in kept:
            trained[begin] += 1
            trained[end] -= 1
    labels = np.where(trained[:-1].cumsum() > 0, ids, np.int32(NOT_TRAINED))
    return Encoded(ids, labels, all_lengths.cumsum(), rules, answer_ends)


def kept_places(dialogue: Dialogue, places: list[tuple[int, int]], train_on: TrainOn) -> list[tuple[int, int]]:
    """The answers that bear loss, of all answers."""
    if dialogue.trained is not None:
        flags = [
            trained
            for message, trained in zip(dialogue.messages, dialogue.trained, strict=True)
            if message["role"] == "assistant"
        ]
        if train_on == "last_assistant_turn":
            return places[-1:] if flags[-1] else []
        return [place for place, trained in zip(places, flags, strict=True) if trained]
    return places if train_on == "all_assistant_turns" else places[-1:]


def encoded_texts(chat: Chat, rendered: Sequence[Rendered]) -> tuple[Ids, Places]:
    """The ids of all texts, one behind the other, and how many each has."""
    texts = [one.text for one in rendered]
    ids, lengths = chat.encoder.encode(texts)
    # a row of each batch: what the probe texts did not tell apart would show in the data itself
    chat.encoder.verify(texts[:1], ids[: lengths[:1].sum()], lengths[:1])
    cut = [number for number, one in enumerate(rendered) if one.pieces is not None]
    if not cut:
        return ids, lengths
    rows = np.split(ids, lengths.cumsum()[:-1])
    for number in cut:
        rows[number] = split_ids(chat, rendered[number].pieces or [""], rows[number])
    return np.concatenate(rows), np.array([len(row) for row in rows], np.int64)


def split_ids(chat: Chat, pieces: list[str], otherwise: Ids) -> Ids:
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
