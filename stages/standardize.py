"""Any chat dialect to role/content messages, each conversation with a stable id, in train or heldout, or set aside with its rule.

Reads   data/raw (rows.parquet), data/exclusions.csv
Writes  data/messages (messages.parquet, rejected.parquet, excluded.parquet, summary.json)
Command python -m stages.standardize --raw data/raw --exclusions data/exclusions.csv --messages data/messages

A row id is the sha256 of the conversation's canonical JSON, [[role, content], ...], cut to 32 hex characters, so it survives
re-ordering and a growing dataset. The same hash chooses the split: a conversation never moves between train and heldout when
others come or go. That is why there is no cap on the number of held-out rows here (a cap would move rows); stages that
need fewer take the first ones by id.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pyarrow as pa
from pydantic import Field

from stages.contracts import messages as contract
from stages.contracts import raw as raw_contract
from stages.contracts.messages_check import check_messages
from stages.conversation import canonical_json, conversation, id_of, parsed, split_of
from stages.dialects import Layout, Row, mapped_chat, mapped_pair, recognize
from stages.entry import Input, Output, run
from stages.errors import StageError
from stages.exclusions import Exclusions, read_exclusions
from stages.files import write_json
from stages.params import Params
from stages.rules import RULES, Message, Rejected
from stages.tables import parquet_batches, write_parquet

log = logging.getLogger("retune")

ROWS_TO_RECOGNIZE = 1_000
BATCH = 2_000
"""Rows held in memory as Python objects at a time: some 10 MB of FineTome."""


class PromptColumns(Params):
    """A dataset of questions and answers in columns of other names than the known ones."""

    prompt: str
    """The column that holds what the user says."""
    answer: str
    """The column that holds what the assistant answers."""
    system: str | None
    """The column that holds the system message; null: there is none."""


class ChatColumns(Params):
    """A dataset of conversations in a column of another name than the known ones, or of several such columns."""

    messages: str
    """The column that holds the list of messages."""


class StandardizeParams(Params):
    """What a conversation must be, and which are held out."""

    columns: PromptColumns | ChatColumns | None
    """Which columns hold what, where looking cannot tell: {prompt, answer, system} or {messages}. null: found out by looking."""
    heldout_fraction: Annotated[float, Field(ge=0, lt=1)]
    """Share of conversations held out, 0 to 1, by hash of the row id. More measures better and trains on less; a larger share keeps all that a smaller one held out."""
    max_messages: Annotated[int, Field(ge=2)] | None
    """Messages in one conversation; longer ones are set aside (rule too_many_messages). null: no limit."""
    max_chars: Annotated[int, Field(ge=1)] | None
    """Characters in one conversation, all contents together; longer ones are set aside (rule too_large). null: no limit."""


def standardize(raw: Input, exclusions: Input, messages: Output, params: StandardizeParams) -> None:
    """Turn the rows of data/raw into conversations; every row ends in train, heldout, rejected or excluded."""
    listed = read_exclusions(exclusions)
    layout = find_layout(raw / raw_contract.ROWS, params)
    outcome = Outcome()
    messages.mkdir(parents=True)
    kept = kept_batches(raw / raw_contract.ROWS, layout, params, listed, outcome)
    write_parquet(messages / contract.MESSAGES, kept, contract.SCHEMA)
    write_parquet(messages / contract.REJECTED, outcome.rejected, contract.REJECTED_SCHEMA)
    write_parquet(messages / contract.EXCLUDED, outcome.excluded, contract.EXCLUDED_SCHEMA)
    summary = summarize(outcome, layout)
    write_json(messages / contract.SUMMARY, summary)
    log.info(
        "%d rows (%s): %d train, %d heldout, %d rejected%s, %d excluded",
        *(
            summary["raw"],
            layout.name if layout else "no layout",
            summary["train"],
            summary["heldout"],
            summary["rejected"],
        ),
        f" ({by_rule(outcome.rules)})" if outcome.rules else "",
        summary["excluded"],
    )
    if not summary["heldout"] and params.heldout_fraction:
        log.warning("no conversation is held out: too few rows for heldout_fraction %s", params.heldout_fraction)


@dataclass
class Outcome:
    """What became of the rows so far, beside the kept ones, which are written as they come."""

    raw: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    rejected: list[pa.RecordBatch] = field(default_factory=list)
    excluded: list[pa.RecordBatch] = field(default_factory=list)
    seen: set[bytes] = field(default_factory=set)
    """Ids of the kept conversations, to know a duplicate by: 16 bytes for each."""


def kept_batches(
    rows: Path, layout: Layout | None, params: StandardizeParams, exclusions: Exclusions, outcome: Outcome
) -> Iterator[pa.RecordBatch]:
    """The conversations to keep, batch by batch, validated; what is set aside is added to `outcome`."""
    for batch in parquet_batches(rows, rows=BATCH):
        kept: list[tuple[str, int, str, list[Message]]] = []
        rejected: list[tuple[str, int, str]] = []
        excluded: list[tuple[str, int, str]] = []
        for row, record in zip(batch["row"].to_pylist(), batch["record"].to_pylist(), strict=True):
            found, rule = conversation(record, layout, max_messages=params.max_messages, max_chars=params.max_chars)
            row_id = id_of(canonical_json(found) if found else record)
            reason = exclusions.reason(row_id, [content for _, content in found])
            if reason is None and rule is None and bytes.fromhex(row_id) in outcome.seen:
                rule = "duplicate"
            if reason is not None:
                excluded.append((row_id, row, reason))
            elif rule is not None:
                rejected.append((row_id, row, rule))
            else:
                outcome.seen.add(bytes.fromhex(row_id))
                kept.append((row_id, row, split_of(row_id, params.heldout_fraction), found))
        outcome.raw += batch.num_rows
        outcome.splits.update(split for _, _, split, _ in kept)
        outcome.rules.update(rule for _, _, rule in rejected)
        outcome.rejected.append(columns_of(rejected, contract.REJECTED_SCHEMA))
        outcome.excluded.append(columns_of(excluded, contract.EXCLUDED_SCHEMA))
        table = messages_batch(kept)
        check_messages(table)
        yield table


def messages_batch(kept: list[tuple[str, int, str, list[Message]]]) -> pa.RecordBatch:
    """The kept conversations as Arrow; built from flat columns, four times as fast as from nested rows."""
    flat = [item for _, _, _, found in kept for item in found]
    offsets = [0]
    for _, _, _, found in kept:
        offsets.append(offsets[-1] + len(found))
    items = pa.StructArray.from_arrays(
        [pa.array([role for role, _ in flat], pa.string()), pa.array([content for _, content in flat], pa.string())],
        fields=list(contract.MESSAGE),
    )
    lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), items, type=contract.SCHEMA.field("messages").type)
    firsts = [pa.array([row[i] for row in kept], contract.SCHEMA.field(i).type) for i in range(3)]
    return pa.RecordBatch.from_arrays([*firsts, lists], schema=contract.SCHEMA)


def columns_of(rows: list[tuple[str, int, str]], schema: pa.Schema) -> pa.RecordBatch:
    """Rows as a record batch of `schema`."""
    return pa.RecordBatch.from_arrays(
        [pa.array([row[i] for row in rows], schema.field(i).type) for i in range(len(schema))], schema=schema
    )


def find_layout(rows: Path, params: StandardizeParams) -> Layout | None:
    """The dataset's layout: the mapped one, or the one that its first objects have; None if no record is an object.

    Raises StageError for an empty dataset and for a layout that is not clear.
    """
    first = list(first_objects(rows, ROWS_TO_RECOGNIZE))
    if not first:
        if not any(batch.num_rows for batch in parquet_batches(rows, columns=["row"])):
            raise StageError(
                "the dataset is empty: no row in it. Look at fetch_data.source (and its split, for a hub dataset)."
            )
        return None
    if isinstance(params.columns, PromptColumns):
        named = params.columns
        if not any(named.prompt in row and named.answer in row for row in first):
            seen = ", ".join(
                repr(column[:40]) for column in list(dict.fromkeys(key for row in first for key in row))[:30]
            )
            raise StageError(
                f"standardize.columns names {named.prompt!r} and {named.answer!r}; the columns of the first rows are {seen}"
            )
        return mapped_pair(named.prompt, named.answer, named.system)
    if isinstance(params.columns, ChatColumns):
        return mapped_chat(params.columns.messages, first)
    return recognize(first)


def first_objects(rows: Path, count: int) -> Iterator[Row]:
    """The first `count` records that are objects."""
    found = 0
    for batch in parquet_batches(rows, columns=["record"], rows=BATCH):
        for record in batch["record"].to_pylist():
            try:
                yield parsed(record)
            except Rejected:
                continue
            found += 1
            if found == count:
                return


def summarize(outcome: Outcome, layout: Layout | None) -> dict[str, object]:
    """The counts of summary.json. Raises StageError if nothing is left to train on, RuntimeError if a row is unaccounted for."""
    rejected, excluded = count(outcome.rejected), count(outcome.excluded)
    kept = outcome.splits.total()
    if outcome.raw != kept + rejected + excluded:
        raise RuntimeError(
            f"{outcome.raw} rows came in, {kept} kept + {rejected} rejected + {excluded} excluded went out"
        )
    if not outcome.splits["train"]:
        found = (
            f"of {outcome.raw} rows {rejected} are rejected, {excluded} excluded, {outcome.splits['heldout']} held out"
        )
        raise StageError(f"no row is left to train on: {found}. By rule: {by_rule(outcome.rules) or 'none'}")
    return {
        "raw": outcome.raw,
        "train": outcome.splits["train"],
        "heldout": outcome.splits["heldout"],
        "rejected": rejected,
        "excluded": excluded,
        "rules": dict(outcome.rules),
        "dialects": {layout.name: kept} if layout else {},
    }


def by_rule(rules: Counter[str]) -> str:
    """`3 duplicate (the same ...), 1 ...`: the counts in the rules' order, with what each means."""
    return ", ".join(f"{rules[rule]} {rule} ({meaning})" for rule, meaning in RULES.items() if rules[rule])


def count(batches: Iterable[pa.RecordBatch]) -> int:
    """Rows of all batches."""
    return sum(batch.num_rows for batch in batches)


if __name__ == "__main__":
    run(standardize)
