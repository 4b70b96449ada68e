"""Any chat dialect to role/content messages, each conversation with a stable id, in train or heldout, or set aside with its rule.

Reads  data/raw (rows.parquet, source.json), data/exclusions.csv, data/custom (evaluation sets, if params name some)
Writes data/messages (messages.parquet, rejected.parquet, excluded.parquet, summary.json)

    python -m stages.standardize --raw data/raw --exclusions data/exclusions.csv --custom data/custom --messages data/messages

A row id is the sha256 of the conversation's canonical JSON (stages/conversations/canonical.py), cut to 32 hex characters, so it survives
re-ordering and a growing dataset. The same hash chooses the split: a conversation never moves between train and heldout when
others come or go. That is why there is no cap on the number of held-out rows here (a cap would move rows); stages that
need fewer take the first ones by id.

Worker processes judge rows by themselves; this process decides what depends on other rows, in their order, and writes.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import compress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, TypeAdapter, field_validator

from stages.arrow.tables import count_rows, read_parquet_batches, write_parquet
from stages.contracts import messages as contract
from stages.contracts import raw as raw_contract
from stages.conversations.dialect_detection import detect_dialect
from stages.conversations.dialects import Dialect
from stages.conversations.exclusions import read_exclusions
from stages.conversations.flag_counts import COMMON_ROWS, COMMON_SHARE, FlagCounts
from stages.conversations.grouping import check_group_column
from stages.conversations.judging import Judge, JudgedBatch, judge_batch
from stages.conversations.language import LANGUAGES, suggest_language
from stages.conversations.layouts_tree import Trees
from stages.conversations.near_rows import make_near_policy, settle_near_rows
from stages.conversations.observed_rules import note_rules
from stages.conversations.row_accounting import RowAccount
from stages.conversations.schema_check import check_messages, check_passing
from stages.conversations.seen_share import SeenShare
from stages.core.errors import StageError
from stages.core.files import read_json, write_json
from stages.core.params import Params, Runtime
from stages.core.runner import Input, Output, run
from stages.dataset_files.column_names import Columns
from stages.show.progress import progress
from stages.workers.ordered_map import ordered_map
from stages.workers.system_memory import take_memory_from_system
from stages.workers.without_pandas import leave_pandas_out

if TYPE_CHECKING:
    from stages.dedup.contamination import EvaluationIndex

log = logging.getLogger("retune")

BATCH = 1_000
"""Rows judged together: some 5 MB of FineTome as Python objects. The files do not depend on it."""
LINES = 20
"""Lines of the exclusions that are named."""
ROWS_FOR_WORKERS = 4_000
"""Fewer rows are judged sooner in this process than others are started."""


class StandardizeParams(Params):
    """What a conversation must be, and which are held out."""

    heldout_fraction: Annotated[float, Field(ge=0, lt=1)]
    """Share of conversations held out, 0 to 1, by hash of the row id. More measures better and trains on less; a larger share keeps all that a smaller one held out."""
    turns: Literal["strict", "merge_same_role", "greeting_first"]
    """What becomes of turns out of order. strict: the row is set aside; merge_same_role: neighbouring questions, or answers,
    are joined with an empty line between; greeting_first: an opening answer is kept as context, untrained."""
    trees: Trees
    """What becomes of trees of replies, such as OASST's. best_ranked: the reply ranked best is taken at each message; longest: the longest branch; refuse: none."""
    max_messages: Annotated[int, Field(ge=2)] | None
    """Messages in a conversation, at most (rule too_many_messages); null: no limit. Longer ones are set aside."""
    max_chars: Annotated[int, Field(ge=1)] | None
    """Characters in a conversation, at most (rule too_large); null: no limit. Contents, tool calls and tools together; longer ones are set
    aside."""
    near_duplicates: Literal["off", "flag", "drop"]
    """What becomes of rows that nearly repeat an earlier one. off: they are not looked for; flag: it is written down beside the row; drop:
    they are set aside (rule near_duplicate)."""
    near_heldout: Literal["drop", "keep"]
    """What becomes of training rows that nearly repeat a held-out one. drop: they are set aside (rule near_heldout), since the evaluation
    would measure what was trained; keep: they are trained."""
    near_threshold: Annotated[float, Field(gt=0, le=1)]
    """From which similarity, 0 to 1, one row nearly repeats another. The estimated share of three-word runs that both have, of all that
    either has."""
    contamination: list[str]
    """Files in data/custom with evaluation sets, whose texts are not trained; []: none. Conversations that hold a text of theirs are set
    aside (rule contaminated)."""
    languages: list[str] | None
    """Languages to keep, by ISO 639-1 code, such as [en, de]; null: all. Conversations in others are set aside (rule other_language)."""
    group_by: str | None
    """What rows share that are held out together: a column, or `answer`; null: nothing. Such as the wordings of one fact. The split follows from the
    hash of the column's value, or of what the assistant says; a row without a value is a group of its own."""
    flagged: Literal["keep", "drop"]
    """What becomes of rows with HTML, odd answers, personal data or keys. keep: they are counted and trained; drop: they are set aside, by the
    name of their flag. Of answers that very many rows have, none is set aside."""

    @field_validator("languages")
    @classmethod
    def check_languages(cls, value: list[str] | None) -> list[str] | None:
        """Accept the codes that texts can be told to be in."""
        if value == []:
            raise ValueError("no language is named, so every row would be set aside; null keeps all languages")
        if unknown := next((code for code in value or () if code not in LANGUAGES), None):
            raise ValueError(f"{unknown!r} is no ISO 639-1 code that is known here{suggest_language(unknown)}")
        return value


def standardize(
    raw: Input, exclusions: Input, custom: Input, messages: Output, params: StandardizeParams, runtime: Runtime
) -> None:
    """Turn the rows of data/raw into conversations; every row ends as one of contracts.messages.FATES."""
    rows, sources = raw / raw_contract.ROWS, read_json(raw / raw_contract.SOURCE)["sources"]
    if not count_rows(rows):
        raise StageError(
            "the dataset is empty: no row in it. Look at fetch_data.sources (and the split, for a hub dataset)."
        )
    dialects = detect_dialects(rows, sources, params.trees)
    check_group_column(
        [(one["source"], read_records(rows, index)) for index, one in enumerate(sources)], params.group_by
    )
    judge = Judge(
        dialects=dialects,
        exclusions=read_exclusions(exclusions),
        turns=params.turns,
        max_messages=params.max_messages,
        max_chars=params.max_chars,
        heldout_fraction=params.heldout_fraction,
        languages=params.languages,
        evaluation=read_evaluation_sets(custom, params.contamination),
        near=make_near_policy(
            params.near_duplicates, params.near_heldout, params.near_threshold, params.heldout_fraction
        ),
        group_by=params.group_by,
        flagged=params.flagged,
    )
    messages.mkdir(parents=True)
    names = [source["source"] for source in sources]
    account, seen, flags = RowAccount(names, dialects, params.contamination), SeenShare(), FlagCounts(names)
    kept = flags.watch(seen.watch(judge_rows(rows, judge, messages / ".waiting.arrow", account, runtime)))
    checked = map(account.keep, check_passing(kept))
    write_parquet(messages / contract.MESSAGES, checked, contract.SCHEMA)
    rejected = account.sort_rejected()
    flags.add_set_aside(rejected)
    flags.add_common_answers(seen.find_common_answers(COMMON_SHARE, COMMON_ROWS), messages / contract.MESSAGES)
    write_parquet(messages / contract.REJECTED, rejected, contract.REJECTED_SCHEMA)
    write_parquet(messages / contract.EXCLUDED, account.excluded, contract.EXCLUDED_SCHEMA)
    unmatched = judge.exclusions.find_unmatched(account.matched)
    summary = {
        **account.summarize(),
        "exclusions_unmatched": len(unmatched),
        "flags": flags.summarize(),
        "seen": seen.summarize(params.group_by),
    }
    write_json(messages / contract.SUMMARY, summary)
    note_rules(summary, evaluation_sets=judge.evaluation is not None)
    for said in filter(None, (account.describe(), flags.describe(), summary["seen"]["says"])):
        log.info("%s", said)
    if unmatched:
        named = ", ".join(map(str, unmatched[:LINES])) + (" ..." if unmatched[LINES:] else "")
        log.warning(
            "data/exclusions.csv: no row has the id or text of line %s; look at the ids (`retune preview`)", named
        )
    if not summary["train"]:
        raise StageError(f"no row is left to train on: {account.describe()}{account.describe_first_rejected()}")
    if not summary["heldout"] and params.heldout_fraction:
        log.warning("no conversation is held out: too few rows for heldout_fraction %s", params.heldout_fraction)


def detect_dialects(rows: Path, sources: Sequence[Mapping[str, Any]], trees: Trees) -> list[Dialect | None]:
    """The dialect of each source. Raises StageError where one is not clear or refused."""
    named = TypeAdapter(Columns | None)
    return [
        detect_dialect(
            read_records(rows, index), named.validate_python(source["columns"]), source["source"], index, trees
        )
        for index, source in enumerate(sources)
    ]


def read_records(rows: Path, source: int) -> Iterator[bytes]:
    """The records of one source, from its first. Read without threads, since worker processes are forked afterwards."""
    with pq.ParquetFile(rows) as file:
        for group in range(file.num_row_groups):
            if source in file.read_row_group(group, ["source"], use_threads=False)["source"].to_numpy():
                for batch in file.iter_batches(BATCH, [group], ["source", "record"], use_threads=False):
                    mine = batch["source"].to_numpy() == source
                    yield from compress(batch["record"].to_pylist(), mine)


def read_evaluation_sets(custom: Path, names: Sequence[str]) -> "EvaluationIndex | None":
    """What the evaluation sets in data/custom are known by; None if there are none. Raises StageError if one is missing or unreadable."""
    if not names:
        return None
    from stages.dedup.contamination import find_evaluation_files, index_evaluation_sets

    return index_evaluation_sets(find_evaluation_files(custom, names))


def judge_rows(
    rows: Path, judge: Judge, waiting: Path, account: RowAccount, runtime: Runtime
) -> Iterator[pa.RecordBatch]:
    """The conversations to keep, in the order of their rows; what is set aside is added to `account`."""
    total = count_rows(rows)
    workers = runtime.workers if total >= ROWS_FOR_WORKERS else 1
    found = show_progress(
        ordered_map(partial(judge_batch, judge=judge), read_parquet_batches(rows, rows=BATCH), workers), total
    )
    if judge.near:
        yield from settle_near_rows(found, total, waiting, judge.near, account)
    else:
        for batch in found:
            yield account.add_judged(batch)[0]


def show_progress(batches: Iterator[JudgedBatch], total: int) -> Iterator[JudgedBatch]:
    """The batches, counted for the eye."""
    with progress("standardizing", total) as advance:
        for batch in batches:
            # its libraries take half a second to load: here, while the workers work (they are forked by now)
            Thread(
                target=check_messages, args=[batch.kept.slice(0, 0).select(contract.SCHEMA.names)], daemon=True
            ).start()
            yield batch
            break
        for batch in batches:
            yield batch
            advance(batch.kept.num_rows + batch.rejected.num_rows + batch.excluded.num_rows)


def uses(params: StandardizeParams, _inputs: Mapping[str, Path]) -> dict[str, list[str]]:
    """Of data/custom the evaluation sets that params name."""
    return {"custom": params.contamination}


if __name__ == "__main__":
    leave_pandas_out()
    take_memory_from_system()
    run(standardize, uses, runtime_keys=("workers",))
