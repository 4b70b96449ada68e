"""A batch of data/messages -> a batch of data/tokens: encoded, and fitted into the longest row that is asked for; pure."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stages.chat.dialogues import read_dialogues
from stages.chat.encoding import Encoded, EncodedRow
from stages.chat.rendering import Dialogue
from stages.chat.row_rules import NO_LABELS_LEFT, TOO_LONG
from stages.contracts import tokens as contract
from stages.contracts.messages import SPLITS
from stages.contracts.tokens import NOT_TRAINED

TooLong = Literal["reject", "cut_turn", "cut"]
Encode = Callable[[Sequence[Dialogue]], Encoded]
"""`stages.chat.encoding.encode_dialogues` with all that it takes beside the dialogues."""


class FittedBatch(NamedTuple):
    """What became of a batch of conversations."""

    tokens: dict[str, pa.RecordBatch]
    """By split: the kept rows, of data/tokens' schema, in their order."""
    truncated: dict[str, int]
    """By split: how many of them were cut."""
    rejected: pa.RecordBatch
    """The other rows, of REJECTED_SCHEMA."""
    context: Counter[str]
    """By rule, how many answers of the kept rows were to be trained and may not be."""


def fit_batch(batch: pa.RecordBatch, *, encode: Encode, max_length: int, too_long: TooLong) -> FittedBatch:
    """Encode the conversations of a batch (COLUMNS of data/messages) and fit them into `max_length` tokens."""
    dialogues = read_dialogues(batch)
    encoded = encode(dialogues)
    longer = np.flatnonzero(np.diff(encoded.offsets) > max_length).tolist()
    long = [row for row in longer if encoded.rules[row] is None]
    longest = None
    refused: dict[int, str] = {}
    if too_long == "reject":
        refused = dict.fromkeys(long, TOO_LONG)
    elif too_long == "cut":
        longest = max_length
        for row, start in zip(long, encoded.offsets[long].tolist(), strict=True):
            if (encoded.labels[start : start + longest] == NOT_TRAINED).all():
                refused[row] = NO_LABELS_LEFT
    else:
        shorter = {row: shorten(dialogues[row], encoded.answer_ends[row], encode, max_length) for row in long}
        refused = {row: TOO_LONG for row, short in shorter.items() if short is None}
        encoded = replace_rows(encoded, {row: short for row, short in shorter.items() if short is not None})
    rules = [refused.get(row, rule) for row, rule in enumerate(encoded.rules)]
    kept = np.array([rule is None for rule in rules], bool)
    cut = np.zeros(len(rules), bool)
    cut[long] = kept[long]
    of_split = {split: np.asarray(pc.equal(batch["split"], split)) for split in SPLITS}
    return FittedBatch(
        {split: take_tokens(batch, encoded, kept & here, longest) for split, here in of_split.items()},
        {split: int((cut & here).sum()) for split, here in of_split.items()},
        take_rejected(batch, rules),
        Counter(rule for row in np.flatnonzero(kept).tolist() for rule in encoded.context[row]),
    )


def shorten(dialogue: Dialogue, answer_ends: Sequence[int], encode: Encode, max_length: int) -> EncodedRow | None:
    """The longest beginning of a dialogue that ends with an answer and fits; None if not even the first answer does."""
    places = [index for index, message in enumerate(dialogue.messages) if message["role"] == "assistant"]
    for place, end in reversed(list(zip(places, answer_ends, strict=True))):
        if end <= max_length:
            stop = place + 1
            kept = dialogue.trained and dialogue.trained[:stop]
            shorter = Dialogue(dialogue.messages[:stop], dialogue.tools, kept, dialogue.options)
            row = encode([shorter]).row(0)
            if not isinstance(row, str) and len(row.input_ids) <= max_length:
                return row
    return None


def replace_rows(encoded: Encoded, rows: dict[int, EncodedRow]) -> Encoded:
    """The same with other ids and labels in some rows."""
    if not rows:
        return encoded
    ids, labels = (np.split(values, encoded.offsets[1:-1]) for values in (encoded.input_ids, encoded.labels))
    for number, row in rows.items():
        ids[number], labels[number] = row.input_ids, row.labels
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids])])
    context = [rows[number].context if number in rows else rules for number, rules in enumerate(encoded.context)]
    return dataclasses.replace(
        encoded, input_ids=np.concatenate(ids), labels=np.concatenate(labels), offsets=offsets, context=context
    )


def take_tokens(
    batch: pa.RecordBatch, encoded: Encoded, rows: npt.NDArray[np.bool_], longest: int | None
) -> pa.RecordBatch:
    """Some rows, of data/tokens' schema; of each the first `longest` tokens, or all."""
    begins, ends = encoded.offsets[:-1][rows], encoded.offsets[1:][rows]
    if longest is not None:
        ends = np.minimum(ends, begins + longest)
    # slices, since a mask over all tokens, in numpy or Arrow, costs many times what the copy does
    places = [slice(begin, end) for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]
    offsets = pa.array(np.concatenate([[0], (ends - begins).cumsum()]), pa.int32())
    ids, labels = (
        pa.ListArray.from_arrays(
            offsets,
            pa.array(np.concatenate([values[:0], *(values[place] for place in places)]), pa.int32()),
            contract.IDS,
        )
        for values in (encoded.input_ids, encoded.labels)
    )
    return pa.RecordBatch.from_arrays([batch["row_id"].filter(pa.array(rows)), ids, labels], schema=contract.SCHEMA)


def take_rejected(batch: pa.RecordBatch, rules: Sequence[str | None]) -> pa.RecordBatch:
    """The refused rows with their rules."""
    names = contract.REJECTED_SCHEMA.names
    if not any(rules):
        # `pa.array` of a list imports pandas, 0.2 s: most datasets have no such row
        none = batch.slice(0, 0)
        columns = [none["split" if name == "rule" else name] for name in names]
        return pa.RecordBatch.from_arrays(columns, schema=contract.REJECTED_SCHEMA)
    of_rule = pa.array(rules, pa.string())
    whole = pa.RecordBatch.from_arrays([of_rule if name == "rule" else batch[name] for name in names], names=names)
    return whole.filter(of_rule.is_valid()).cast(contract.REJECTED_SCHEMA)
