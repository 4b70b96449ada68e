"""A batch of data/messages -> a batch of data/tokens: encoded, and fitted into the longest row that is asked for; pure."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.chat import Chat
from stages.contracts import tokens as contract
from stages.contracts.messages import SPLITS
from stages.contracts.tokens import NOT_TRAINED
from stages.encoding import Encoded, Row, TrainOn, encode_dialogues
from stages.rendering import Dialogue, Message

TOO_LONG = "too_long"
NO_LABELS_LEFT = "no_labels_left"
"""What was cut off held all that would have been trained."""

TooLong = Literal["reject", "cut_turn", "cut"]


@dataclass(frozen=True)
class Fit:
    """What `stages.template.TemplateParams` says of a row."""

    max_length: int
    too_long: TooLong
    train_on: TrainOn
    split_control_tokens: bool


class Fitted(NamedTuple):
    """What became of a batch of conversations."""

    tokens: dict[str, pa.RecordBatch]
    """By split: the kept rows, of data/tokens' schema, in their order."""
    truncated: dict[str, int]
    """By split: how many of them were cut."""
    rejected: pa.RecordBatch
    """The other rows, of REJECTED_SCHEMA."""


COLUMNS = ["row_id", "row", "source", "file", "line", "split", "tools", "messages"]
"""What is read of data/messages."""


def fitted(batch: pa.RecordBatch, chat: Chat, fit: Fit) -> Fitted:
    """Encode the conversations of a batch (COLUMNS of data/messages) and fit them into `fit.max_length` tokens."""
    talks = dialogues(batch)
    encoded = encode_dialogues(chat, talks, fit.train_on, split=fit.split_control_tokens)
    rules = list(encoded.rules)
    lengths = np.diff(encoded.offsets)
    long = [row for row in np.flatnonzero(lengths > fit.max_length).tolist() if rules[row] is None]
    ids, labels = lists(encoded)
    if fit.too_long == "reject":
        rules = [TOO_LONG if row in set(long) else rule for row, rule in enumerate(rules)] if long else rules
    elif fit.too_long == "cut" and long:
        for row in long:
            start = encoded.offsets[row]
            if (encoded.labels[start : start + fit.max_length] == NOT_TRAINED).all():
                rules[row] = NO_LABELS_LEFT
        ids, labels = (pc.list_slice(values, 0, fit.max_length).cast(contract.IDS) for values in (ids, labels))
    elif long:
        shorter = {row: shortened(talks[row], encoded.answer_ends[row], chat, fit) for row in long}
        rules = [TOO_LONG if row in shorter and shorter[row] is None else rule for row, rule in enumerate(rules)]
        ids, labels = replaced(ids, labels, {row: short for row, short in shorter.items() if short})
    kept = np.array([rule is None for rule in rules], bool)
    cut = np.zeros(len(rules), bool)
    cut[long] = kept[long]
    whole = pa.RecordBatch.from_arrays([batch["row_id"], ids, labels], schema=contract.SCHEMA)
    of_split = {split: np.asarray(pc.equal(batch["split"], split)) for split in SPLITS}
    return Fitted(
        {split: whole.filter(pa.array(kept & here)) for split, here in of_split.items()},
        {split: int((cut & here).sum()) for split, here in of_split.items()},
        rejected(batch, rules),
    )


def dialogues(batch: pa.RecordBatch) -> list[Dialogue]:
    """The conversations of a batch of data/messages."""
    turns = batch["messages"].flatten()
    roles, contents = turns.field("role").to_pylist(), turns.field("content").to_pylist()
    messages: list[Message] = [
        {"role": role, "content": content} for role, content in zip(roles, contents, strict=True)
    ]
    calls = turns.field("tool_calls")
    if calls.null_count < len(calls):
        for index, text in enumerate(calls.to_pylist()):
            if text is not None:
                messages[index] = {**messages[index], "tool_calls": json.loads(text)}
    trained = turns.field("train")
    flags = None if trained.true_count == len(trained) else trained.to_pylist()
    tools = [text and json.loads(text) for text in batch["tools"].to_pylist()]
    ends = np.cumsum(batch["messages"].value_lengths()).tolist()
    with_calls = calls.null_count < len(calls)
    return [
        Dialogue(
            numbered(messages[start:end]) if with_calls else messages[start:end], tools[row], flags and flags[start:end]
        )
        for row, (start, end) in enumerate(zip([0, *ends], ends, strict=False))
    ]


def numbered(messages: list[Message]) -> list[Message]:
    """A dialogue whose calls have ids, and its tools' results the ids and names of the calls they answer, in their order.

    Some templates refuse a call without an id of nine characters (Mistral's), some write the ids. They are made anew for all:
    those of datasets are random, of any length, or missing.
    """
    count = 0
    unanswered: list[tuple[str, str]] = []
    found: list[Message] = []
    for message in messages:
        if "tool_calls" in message:
            ids = [f"call{number:05d}" for number in range(count, count + len(message["tool_calls"]))]
            count += len(ids)
            made = [{**call, "id": name} for name, call in zip(ids, message["tool_calls"], strict=True)]
            unanswered = [(call["id"], call["function"]["name"]) for call in made]
            found.append({**message, "tool_calls": made})
        elif message["role"] == "tool" and unanswered:
            call_id, name = unanswered.pop(0)
            found.append({**message, "tool_call_id": call_id, "name": name})
        else:
            found.append(message)
    return found


def lists(encoded: Encoded) -> tuple[pa.ListArray, pa.ListArray]:
    """`input_ids` and `labels` of all rows as Arrow lists, without a copy."""
    offsets = pa.array(encoded.offsets, pa.int32())
    ids, labels = (
        pa.ListArray.from_arrays(offsets, pa.array(values, pa.int32()), contract.IDS)
        for values in (encoded.input_ids, encoded.labels)
    )
    return ids, labels


def shortened(dialogue: Dialogue, answer_ends: Sequence[int], chat: Chat, fit: Fit) -> Row | None:
    """The longest beginning of a dialogue that ends with an answer and fits; None if not even the first answer does."""
    places = [index for index, message in enumerate(dialogue.messages) if message["role"] == "assistant"]
    for place, end in reversed(list(zip(places, answer_ends, strict=True))):
        if end <= fit.max_length:
            stop = place + 1
            shorter = Dialogue(dialogue.messages[:stop], dialogue.tools, dialogue.trained and dialogue.trained[:stop])
            row = encode_dialogues(chat, [shorter], fit.train_on, split=fit.split_control_tokens).row(0)
            if not isinstance(row, str) and len(row.input_ids) <= fit.max_length:
                return row
    return None


def replaced(ids: pa.ListArray, labels: pa.ListArray, rows: dict[int, Row]) -> tuple[pa.ListArray, pa.ListArray]:
    """The same lists with some rows replaced."""
    if not rows:
        return ids, labels
    order = np.arange(len(ids))
    order[list(rows)] = len(ids) + np.arange(len(rows))
    made = [[row.input_ids for row in rows.values()], [row.labels for row in rows.values()]]
    first, second = (
        pa.concat_arrays([old, pa.array(new, contract.IDS)]).take(pa.array(order))
        for old, new in zip((ids, labels), made, strict=True)
    )
    return first, second


def rejected(batch: pa.RecordBatch, rules: Sequence[str | None]) -> pa.RecordBatch:
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
