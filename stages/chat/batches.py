"""A batch of data/messages -> a batch of data/tokens: encoded, and fitted into the longest row that is asked for; pure."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stages.chat.chat import Chat
from stages.chat.encoding import Encoded, Row, TrainOn, encode_dialogues
from stages.chat.rendering import Dialogue, Message
from stages.chat.row_rules import NO_LABELS_LEFT, TOO_LONG
from stages.contracts import tokens as contract
from stages.contracts.messages import SPLITS
from stages.contracts.tokens import NOT_TRAINED

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
    if fit.too_long == "reject":
        rules = [TOO_LONG if row in set(long) else rule for row, rule in enumerate(rules)] if long else rules
    elif fit.too_long == "cut" and long:
        for row in long:
            start = encoded.offsets[row]
            if (encoded.labels[start : start + fit.max_length] == NOT_TRAINED).all():
                rules[row] = NO_LABELS_LEFT
    elif long:
        shorter = {row: shortened(talks[row], encoded.answer_ends[row], chat, fit) for row in long}
        rules = [TOO_LONG if row in shorter and shorter[row] is None else rule for row, rule in enumerate(rules)]
        encoded = replaced(encoded, {row: short for row, short in shorter.items() if short})
    kept = np.array([rule is None for rule in rules], bool)
    cut = np.zeros(len(rules), bool)
    cut[long] = kept[long]
    longest = fit.max_length if fit.too_long == "cut" else None
    of_split = {split: np.asarray(pc.equal(batch["split"], split)) for split in SPLITS}
    return Fitted(
        {split: tokens_of(batch, encoded, kept & here, longest) for split, here in of_split.items()},
        {split: int((cut & here).sum()) for split, here in of_split.items()},
        rejected(batch, rules),
    )


def tokens_of(
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


def replaced(encoded: Encoded, rows: dict[int, Row]) -> Encoded:
    """The same with some rows replaced."""
    if not rows:
        return encoded
    ids, labels = (np.split(values, encoded.offsets[1:-1]) for values in (encoded.input_ids, encoded.labels))
    for number, row in rows.items():
        ids[number], labels[number] = row.input_ids, row.labels
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids])])
    return dataclasses.replace(encoded, input_ids=np.concatenate(ids), labels=np.concatenate(labels), offsets=offsets)


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
