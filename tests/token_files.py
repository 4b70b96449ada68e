"""data/tokens, data/messages and data/raw in small: a few rows with the demo's own tokenizer, as the contracts have them."""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa
from tokenizers import Tokenizer

from stages.arrow.tables import write_parquet
from stages.contracts import messages as message_files
from stages.contracts import raw as raw_files
from stages.contracts import tokens as token_files
from stages.core.files import write_json
from tests.arrow_files import write_arrow
from tests.project import ROOT

TOKENIZER = ROOT / "data" / "demo" / "base"


def ids_and_labels(question: str, answer: str) -> tuple[list[int], list[int]]:
    """A question as context and an answer with its end of turn as what is trained."""
    tokenizer = Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))
    turn = "<|start_header_id|>{}<|end_header_id|>\n\n"
    context = f"<|begin_of_text|>{turn.format('user')}{question}<|eot_id|>{turn.format('assistant')}"
    before, after = (tokenizer.encode(text, add_special_tokens=False).ids for text in (context, f"{answer}<|eot_id|>"))
    return before + after, [token_files.NOT_TRAINED] * len(before) + after


def row_id(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[: message_files.ID_LENGTH]


def write_token_files(
    data: Path,
    train: Sequence[tuple[str, str]],
    heldout: Sequence[tuple[str, str]] = (),
    flags: Mapping[str, list[str]] = MappingProxyType({}),
) -> None:
    """data/raw, data/messages and data/tokens for (question, answer) rows, and rows set aside: one by each stage, a repetition of the
    first row, one excluded.

    `flags`: those of rows, by their question. The ids are `row_id(question)`; of the rows set aside `row_id("rejected")`, `row_id("too long")` and `row_id("excluded")`.
    """
    rows = [(*pair, split) for split, pairs in (("train", train), ("heldout", heldout)) for pair in pairs]
    (data / "raw").mkdir(parents=True)
    write_json(data / "raw" / raw_files.SOURCE, {"sources": [{"source": "data/custom/talk.jsonl"}, {"source": "demo"}]})
    messages, tokens = data / "messages", data / "tokens"
    messages.mkdir()
    tokens.mkdir()
    origins = [{"row": place, "source": 0, "file": "talk.jsonl", "line": place + 1} for place in range(len(rows) + 3)]
    kept = [
        {
            "row_id": row_id(question),
            **origin,
            "split": split,
            "near_duplicate_of": None,
            "tools": None,
            "options": None,
            "flags": flags.get(question),
            "messages": [
                {"role": role, "content": content, "tool_calls": None, "reasoning": None, "train": True}
                for role, content in (("user", question), ("assistant", answer))
            ],
        }
        for (question, answer, split), origin in zip(rows, origins[3:], strict=True)
    ]
    lists = [
        (messages / message_files.MESSAGES, kept, message_files.SCHEMA),
        (
            messages / message_files.REJECTED,
            [
                {"row_id": row_id("rejected"), **origins[0], "rule": "near_duplicate", "of": row_id(train[0][0])},
                {"row_id": row_id(train[0][0]), **origins[1], "rule": "duplicate", "of": row_id(train[0][0])},
            ],
            message_files.REJECTED_SCHEMA,
        ),
        (
            messages / message_files.EXCLUDED,
            [{"row_id": row_id("excluded"), **origins[1], "reason": "asked for"}],
            message_files.EXCLUDED_SCHEMA,
        ),
        (
            tokens / token_files.REJECTED,
            [{"row_id": row_id("too long"), **origins[2], "source": 1, "split": "train", "rule": "too_long"}],
            token_files.REJECTED_SCHEMA,
        ),
    ]
    for path, items, schema in lists:
        write_parquet(path, pa.Table.from_pylist(items, schema))
    for split, name in token_files.SPLITS.items():
        encoded = [
            (row_id(question), *ids_and_labels(question, answer)) for question, answer, own in rows if own == split
        ]
        columns = [list(column) for column in zip(*encoded, strict=True)] or [[], [], []]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, token_files.SCHEMA, strict=True)]
        write_arrow(tokens / name, pa.Table.from_arrays(arrays, schema=token_files.SCHEMA))
    (tokens / token_files.TOKENIZER).mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TOKENIZER / name, tokens / token_files.TOKENIZER / name)
