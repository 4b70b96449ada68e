"""A batch of data/messages -> dialogues as chat templates get them; pure."""

import json

import numpy as np
import pyarrow as pa

from stages.chat.rendering import Dialogue, Message

COLUMNS = ["row_id", "row", "source", "file", "line", "split", "tools", "options", "messages"]
"""What is read of data/messages."""


def read_dialogues(batch: pa.RecordBatch) -> list[Dialogue]:
    """The conversations of a batch (COLUMNS of data/messages)."""
    turns = batch["messages"].flatten()
    roles, contents = turns.field("role").to_pylist(), turns.field("content").to_pylist()
    messages: list[Message] = [
        {"role": role, "content": content} for role, content in zip(roles, contents, strict=True)
    ]
    calls = turns.field("tool_calls")
    with_calls = calls.null_count < len(calls)
    if with_calls:
        for index, text in enumerate(calls.to_pylist()):
            if text is not None:
                messages[index] = {**messages[index], "tool_calls": json.loads(text)}
    thoughts = turns.field("reasoning")
    if thoughts.null_count < len(thoughts):
        for index, text in enumerate(thoughts.to_pylist()):
            if text is not None:
                messages[index] = {**messages[index], "reasoning": text}
    trained = turns.field("train")
    flags = None if trained.true_count == len(trained) else trained.to_pylist()
    tools, options = ([text and json.loads(text) for text in batch[name].to_pylist()] for name in ("tools", "options"))
    ends = np.cumsum(batch["messages"].value_lengths()).tolist()
    return [
        Dialogue(
            number_calls(messages[start:end]) if with_calls else messages[start:end],
            tools[row],
            flags and flags[start:end],
            options[row],
        )
        for row, (start, end) in enumerate(zip([0, *ends], ends, strict=False))
    ]


def number_calls(messages: list[Message]) -> list[Message]:
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
