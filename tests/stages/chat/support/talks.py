"""data/messages as `standardize` writes it, out of dialogues as tests write them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.arrow.tables import write_parquet
from stages.chat.rendering import Dialogue, Message
from stages.contracts import messages as contract


def write_messages(folder: Path, splits: dict[str, Sequence[Sequence[Message] | Dialogue]]) -> None:
    """Write messages.parquet into a new folder: the dialogues of each split, their numbers as row ids."""
    folder.mkdir(parents=True)
    talks = [(split, talk) for split, several in splits.items() for talk in several]
    rows = [row_of(index, split, talk) for index, (split, talk) in enumerate(talks)]
    write_parquet(folder / contract.MESSAGES, pa.Table.from_pylist(rows, schema=contract.SCHEMA))


def row_of(index: int, split: str, talk: Sequence[Message] | Dialogue) -> dict[str, Any]:
    """One row of messages.parquet."""
    dialogue = talk if isinstance(talk, Dialogue) else Dialogue(talk)
    flags = dialogue.trained or [True] * len(dialogue.messages)
    return {
        "row_id": f"{index:032x}",
        "row": index,
        "source": 0,
        "file": "made.jsonl",
        "line": index + 1,
        "split": split,
        "near_duplicate_of": None,
        "tools": dialogue.tools and json.dumps(dialogue.tools),
        "options": dialogue.options and json.dumps(dialogue.options),
        "messages": [
            {
                "role": message["role"],
                "content": message["content"],
                "tool_calls": json.dumps(message["tool_calls"]) if "tool_calls" in message else None,
                "reasoning": message.get("reasoning"),
                "train": train,
            }
            for message, train in zip(dialogue.messages, flags, strict=True)
        ],
    }
