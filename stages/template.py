"""Messages -> ids and labels that a trainer memory-maps, and the tokenizer that all later stages use.

reads   data/messages, data/tokenizer, data/custom (a chat template of yours, if the params name one)
writes  data/tokens/train.arrow, heldout.arrow, rejected.parquet, summary.json, tokenizer/
run     python -m stages.template --messages data/messages --tokenizer data/tokenizer --custom data/custom --tokens data/tokens

The tokenizer that is written ends a turn with its eos_token, pads with another token, and carries the chat template with
the date (and, where the template left it out, the BOS) written in: `apply_chat_template` without arguments gives the ids
of train.arrow, BOS once, today and next year.
"""

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from stages import rendering
from stages.chat import Chat, Row, encode_dialogues, single_token
from stages.contracts import messages as messages_contract
from stages.contracts import tokens as contract
from stages.contracts.tokens import NOT_TRAINED
from stages.entry import Input, Output, run
from stages.errors import StageError
from stages.files import write_json
from stages.params import Params, Runtime
from stages.rendering import Message
from stages.tables import parquet_batches, write_arrow, write_parquet
from stages.template_plan import Plan, our_templates, prepare
from stages.tokenizer_folder import read_tokenizer_folder, vocabulary_size, write_tokenizer_folder

BATCH = 500
"""Dialogues encoded together. The files do not depend on it."""

TOO_LONG = "too_long"
NO_LABELS_LEFT = "no_labels_left"
"""What was cut off held all that would have been trained."""

PERCENTILES = (1, 10, 50, 90, 99)


class TemplateParams(Params):
    """How dialogues become tokens."""

    chat_template: Annotated[str, Field(min_length=1)]
    """Who writes the control tokens around the turns: `tokenizer` (the template that came with it), one of ours (`llama-3.1`,
    `chatml`, `plain`), or a file of yours in data/custom, named `NAME.jinja`."""
    date_string: str
    """The day that a template may write, such as "26 Jul 2024": in place of today, so that tokens are the same tomorrow."""
    max_length: Annotated[int, Field(ge=8)]
    """The longest row, in tokens. Longer rows need more memory in training."""
    too_long: Literal["reject", "cut_turn", "cut"]
    """What becomes of longer rows: set aside; cut behind the last answer that fits whole; or cut at max_length, in mid-sentence."""
    train_on: Literal["all_assistant_turns", "last_assistant_turn"]
    """Which answers bear loss. The last alone fits data whose earlier answers are only context."""
    missing_control_tokens: Literal["text", "add", "error"]
    """What to do with control tokens of the template that the vocabulary lacks: spell them out as text (the base model has to
    learn them, generation stops on that text); add them as tokens (their embeddings must be trained and are saved); or fail."""

    @field_validator("date_string")
    @classmethod
    def a_day(cls, value: str) -> str:
        """Accept the forms that can be read."""
        rendering.parse_date(value)
        return value

    @field_validator("chat_template")
    @classmethod
    def known_template(cls, value: str) -> str:
        """Accept `tokenizer`, the names of our files, and the name of a .jinja file."""
        if value != "tokenizer" and value not in our_templates() and not value.endswith(".jinja"):
            msg = f"must be tokenizer, one of {', '.join(our_templates())}, or NAME.jinja, a file in data/custom"
            raise ValueError(msg)
        return value


def template(
    messages: Input, tokenizer: Input, custom: Input, tokens: Output, params: TemplateParams, runtime: Runtime
) -> None:
    """Render, tokenize and label every conversation; write the rows by split and what later stages need to know of them.

    summary.json: splits.{train,heldout}.{rows, tokens, labelled_tokens, truncated, length, lengths}, rejected.{rule: rows},
    rows_in, chat_template, date_string, end_of_turn.{text, ids, special}, bos, pad, control_tokens.{as_text, added},
    vocabulary_size. `end_of_turn.special` false: generation must stop on the text, no token stands for it.
    """
    if runtime.workers is not None:
        # read by the tokenizers library when its threads start; how many there are shows in no output
        os.environ.setdefault("RAYON_NUM_THREADS", str(runtime.workers))
    plan = prepare(
        read_tokenizer_folder(tokenizer),
        custom,
        params.chat_template,
        params.date_string,
        params.missing_control_tokens,
    )
    tokens.mkdir(parents=True)
    write_tokenizer_folder(
        tokens / contract.TOKENIZER, plan.came, plan.source, plan.tokens, plan.chat_template, plan.added
    )
    tallies = {split: Tally() for split in contract.SPLITS}
    for split, name in contract.SPLITS.items():
        source = dialogues(messages / messages_contract.MESSAGES, split)
        batches = encoded(source, plan.chat, params, tallies[split])
        write_arrow(tokens / name, batches, contract.SCHEMA)
    rejected = [(row_id, split, rule) for split, tally in tallies.items() for row_id, rule in tally.rejected]
    write_parquet(tokens / contract.REJECTED, rejected_table(rejected))
    write_json(tokens / contract.SUMMARY, summary(plan, tallies, params))
    if not tallies["train"].lengths:
        raise StageError(nothing_left(tallies["train"], params))


# --- the rows -------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What has been counted of one split."""

    lengths: list[int] = field(default_factory=list)
    labelled: int = 0
    truncated: int = 0
    rejected: list[tuple[str, str]] = field(default_factory=list)
    """(row id, rule)"""


def dialogues(path: Path, split: str) -> Iterator[tuple[list[str], list[list[Message]]]]:
    """Row ids and conversations of one split, in batches."""
    for batch in parquet_batches(path, ["row_id", "split", "messages"]):
        kept = batch.filter(pc.equal(batch["split"], split))
        for start in range(0, kept.num_rows, BATCH):
            part = kept.slice(start, BATCH)
            turns = part["messages"].flatten()
            roles, contents = turns.field("role").to_pylist(), turns.field("content").to_pylist()
            both: list[Message] = [
                {"role": role, "content": content} for role, content in zip(roles, contents, strict=True)
            ]
            sizes = part["messages"].value_lengths().to_pylist()
            stops = np.cumsum([0, *sizes]).tolist()
            yield part["row_id"].to_pylist(), [both[a:b] for a, b in itertools.pairwise(stops)]


def encoded(
    source: Iterable[tuple[list[str], list[list[Message]]]], chat: Chat, params: TemplateParams, tally: Tally
) -> Iterator[pa.RecordBatch]:
    """Batches of data/tokens; what is refused, cut and counted goes into the tally.

    The tokenizers library works on all cores and lets Python go on meanwhile: two batches are in work at a time.
    """

    def work(item: tuple[list[str], list[list[Message]]]) -> tuple[list[str], list[tuple[Row | str, bool]]]:
        row_ids, batch = item
        rows = encode_dialogues(chat, batch, params.train_on)
        return row_ids, [fitted(row, dialogue, chat, params) for row, dialogue in zip(rows, batch, strict=True)]

    with ThreadPoolExecutor(max_workers=2) as pool:
        pending: list[Future[tuple[list[str], list[tuple[Row | str, bool]]]]] = []
        for item in source:
            pending.append(pool.submit(work, item))
            if len(pending) > 2:  # noqa: PLR2004 - one more than are in work
                yield record_batch(pending.pop(0).result(), tally)
        for future in pending:
            yield record_batch(future.result(), tally)


def fitted(row: Row | str, dialogue: list[Message], chat: Chat, params: TemplateParams) -> tuple[Row | str, bool]:
    """The row as it fits into max_length, or the rule that sets it aside; and whether something was cut off."""
    if isinstance(row, str) or len(row.input_ids) <= params.max_length:
        return row, False
    if params.too_long == "reject":
        return TOO_LONG, False
    if params.too_long == "cut":
        short = Row(row.input_ids[: params.max_length], row.labels[: params.max_length], row.answer_ends)
        return (short, True) if (short.labels != NOT_TRAINED).any() else (NO_LABELS_LEFT, False)
    places = [index for index, message in enumerate(dialogue) if message["role"] == "assistant"]
    for place, end in reversed(list(zip(places, row.answer_ends, strict=True))):
        if end <= params.max_length:
            shorter = encode_dialogues(chat, [dialogue[: place + 1]], params.train_on)[0]
            if not isinstance(shorter, str) and len(shorter.input_ids) <= params.max_length:
                return shorter, True
    return TOO_LONG, False


def record_batch(done: tuple[list[str], list[tuple[Row | str, bool]]], tally: Tally) -> pa.RecordBatch:
    """The kept rows in Arrow; all rows in the tally."""
    kept: list[tuple[str, Row]] = []
    for row_id, (row, cut) in zip(*done, strict=True):
        if isinstance(row, str):
            tally.rejected.append((row_id, row))
        else:
            kept.append((row_id, row))
            tally.truncated += cut
    lengths = [len(row.input_ids) for _, row in kept]
    labels = np.concatenate([row.labels for _, row in kept] or [np.empty(0, np.int32)])
    ids = np.concatenate([row.input_ids for _, row in kept] or [np.empty(0, np.int32)])
    tally.lengths += lengths
    tally.labelled += int((labels != NOT_TRAINED).sum())
    offsets = pa.array(np.cumsum([0, *lengths]), pa.int32())
    lists = [pa.ListArray.from_arrays(offsets, pa.array(values, pa.int32()), contract.IDS) for values in (ids, labels)]
    return pa.RecordBatch.from_arrays(
        [pa.array([row_id for row_id, _ in kept], pa.string()), *lists], schema=contract.SCHEMA
    )


# --- what is said of them -------------------------------------------------------------------------------------------


def rejected_table(rejected: list[tuple[str, str, str]]) -> pa.Table:
    """rejected.parquet: row id, split, rule."""
    columns = [list(column) for column in zip(*rejected, strict=True)] or [[], [], []]
    return pa.Table.from_arrays([pa.array(column, pa.string()) for column in columns], schema=contract.REJECTED_SCHEMA)


def summary(plan: Plan, tallies: dict[str, Tally], params: TemplateParams) -> dict[str, object]:
    """summary.json."""
    tokenizer = plan.chat.tokenizer
    end = plan.chat.turns.end_of_turn.strip()
    rules = Counter(rule for tally in tallies.values() for _, rule in tally.rejected)
    return {
        "rows_in": sum(len(tally.lengths) + len(tally.rejected) for tally in tallies.values()),
        "splits": {split: split_summary(tally) for split, tally in tallies.items()},
        "rejected": dict(rules),
        "chat_template": {
            "name": params.chat_template,
            "sha256": hashlib.sha256(plan.chat_template.encode()).hexdigest(),
        },
        "date_string": params.date_string,
        "end_of_turn": {
            "text": end,
            "ids": tokenizer.encode(end, add_special_tokens=False).ids,
            "special": single_token(plan.chat, end),
        },
        "bos": plan.bos,
        "pad": {"text": plan.tokens["pad_token"], "id": tokenizer.token_to_id(plan.tokens["pad_token"])},
        "control_tokens": {
            "as_text": plan.spelled,
            "added": {token: tokenizer.token_to_id(token) for token in plan.added},
        },
        "vocabulary_size": vocabulary_size(tokenizer),
    }


def split_summary(tally: Tally) -> dict[str, object]:
    """Counts of one split. `lengths`: rows by length, up to each power of two; `length`: its percentiles and extremes."""
    lengths = sorted(tally.lengths)
    steps = Counter(f"{1 << max(length - 1, 1).bit_length()}" for length in lengths)
    ranks = {f"p{share}": lengths[(len(lengths) - 1) * share // 100] for share in PERCENTILES} if lengths else {}
    return {
        "rows": len(lengths),
        "tokens": sum(lengths),
        "labelled_tokens": tally.labelled,
        "truncated": tally.truncated,
        "rejected": len(tally.rejected),
        "length": {**ranks, "min": lengths[0], "max": lengths[-1]} if lengths else {},
        "lengths": dict(sorted(steps.items(), key=lambda step: int(step[0]))),
    }


def nothing_left(tally: Tally, params: TemplateParams) -> str:
    """What to say when no training row is left."""
    rules = Counter(rule for _, rule in tally.rejected)
    if not rules:
        return "data/messages holds no training row; look at its rejected.parquet, and at standardize.heldout_fraction"
    found = ", ".join(f"{rule} {count}" for rule, count in sorted(rules.items()))
    hint = f"; max_length is {params.max_length}" if TOO_LONG in rules or NO_LABELS_LEFT in rules else ""
    return (
        f"no training row is left of {len(tally.rejected)} ({found}){hint}. "
        "template_refused and spans_unverified ask for another template.chat_template"
    )


if __name__ == "__main__":
    run(template)
