"""Dialogues -> `input_ids` + `labels`, in one pass, pure: no file, no torch, no transformers.

The labels are the assistant's turns, each from the end of its generation prompt to the token that ends it, with that where generation
stops at it; nothing else. In order:

    render, mark  a dialogue -> its text, and where the answers stand in it                  marking.py
    encode        the texts of a batch -> ids, by the fastest encoder that is exact          text_encoding.py
    prove         where the answers stand in the ids, or the row is refused                  span_proof.py
    label         those that are to be trained                                               here

A row for which a step cannot be done is refused with the name of a rule (row_rules.py); so is one of which no answer may be trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from stages.chat.chat import Chat, Ids, Places
from stages.chat.marking import Rendered, mark_answers
from stages.chat.rendering import Dialogue
from stages.chat.row_rules import NOTHING_TO_TRAIN
from stages.chat.span_proof import ProvenSpan, prove_spans
from stages.chat.text_encoding import encode_behind_prompt, encode_texts
from stages.contracts.tokens import NOT_TRAINED

TrainOn = Literal["all_assistant_turns", "last_assistant_turn"]


class EncodedRow(NamedTuple):
    """One encoded dialogue."""

    input_ids: Ids
    labels: Ids
    """As long as input_ids: the id itself where it is trained, else NOT_TRAINED."""
    answer_ends: list[int]
    """Of every assistant turn, trained or not: the index after the last token of it that is, or would be, trained."""
    context: tuple[str, ...]
    """Of each answer that was to be trained and may not be, the rule that forbids it."""


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
    """By row, the index in the row after the last token of each answer that is, or would be, trained."""
    context: list[tuple[str, ...]]
    """By row, of each answer that was to be trained and may not be, the rule that forbids it."""

    def row(self, index: int) -> EncodedRow | str:
        """One of them, or the rule that refuses it."""
        here = slice(self.offsets[index], self.offsets[index + 1])
        return self.rules[index] or EncodedRow(
            self.input_ids[here], self.labels[here], self.answer_ends[index], self.context[index]
        )


def encode_dialogues(chat: Chat, dialogues: Sequence[Dialogue], train_on: TrainOn, *, split: bool = False) -> Encoded:
    """Each dialogue as ids and labels, or the rule that refuses it; the same for any cut into batches.

    `split`: control tokens inside a content stay text instead of refusing the row.
    """
    marked = [mark_answers(chat.turns, dialogue, split=split) for dialogue in dialogues]
    rules = [one if isinstance(one, str) else None for one in marked]
    rows = [row for row, rule in enumerate(rules) if rule is None]
    rendered = [one for one in marked if isinstance(one, Rendered)]
    ids, lengths = encode_texts(chat, rendered)
    proven = prove_spans(chat, rendered, ids, lengths)
    ids, lengths, proven = encode_behind_prompt(chat, rendered, ids, lengths, proven)

    labels = np.full_like(ids, NOT_TRAINED)
    answer_ends: list[list[int]] = [[] for _ in dialogues]
    context: list[tuple[str, ...]] = [()] * len(dialogues)
    starts = np.concatenate([[0], lengths.cumsum()])[:-1].tolist()
    for row, spans, start in zip(rows, proven, starts, strict=True):
        if isinstance(spans, str):
            rules[row] = spans
            continue
        answer_ends[row] = [span.end for span in spans]
        wanted = choose_trained(dialogues[row], spans, train_on)
        trained = [span for span in wanted if span.rule is None and span.begin < span.end]
        if not trained:
            rules[row] = wanted[-1].rule if wanted else NOTHING_TO_TRAIN
            continue
        if len(trained) < len(wanted):
            context[row] = tuple([span.rule for span in wanted if span.rule])
        for begin, end, _ in trained:
            labels[start + begin : start + end] = ids[start + begin : start + end]
    row_lengths = np.zeros(len(dialogues), np.int64)
    row_lengths[rows] = lengths
    return Encoded(ids, labels, np.concatenate([[0], row_lengths.cumsum()]), rules, answer_ends, context)


def choose_trained(dialogue: Dialogue, spans: list[ProvenSpan], train_on: TrainOn) -> list[ProvenSpan]:
    """The answers that are to bear loss, of all answers."""
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
