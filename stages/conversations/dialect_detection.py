"""Which dialect a source's rows have, found out by looking at its first rows, or by the columns that the user named; pure functions."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from stages.conversations.canonical import parse_record
from stages.conversations.dialects import Dialect, Row
from stages.conversations.layouts import KNOWN, find_dialects
from stages.conversations.layouts_chat import find_chat_dialect
from stages.conversations.layouts_pair import REASONING_OF, pair_dialect
from stages.conversations.layouts_tree import Trees
from stages.conversations.row_rules import Rejected
from stages.conversations.unsupported import refusal
from stages.core.errors import StageError
from stages.dataset_files.column_names import ChatColumns, PromptColumns
from stages.dataset_files.file_kinds import ending_of

ROWS_TO_RECOGNIZE = 1_000
NAMED_COLUMNS = 30


def how_to_name(number: int) -> str:
    """What to do where looking cannot tell; `number`: the source's place in the params, from 0."""
    return (
        "Name the columns: `--columns prompt=COLUMN,answer=COLUMN` (system=COLUMN too; messages=COLUMN for a list of messages) beside "
        "the file in `retune inspect` and `retune use --data`, or for a source that stands in params.yaml "
        f"`retune use --set 'fetch_data.sources.{number}.columns={{prompt: COLUMN, answer: COLUMN, system: null}}'`."
    )


def detect_dialect(
    records: Iterable[bytes],
    columns: PromptColumns | ChatColumns | None,
    source: str,
    number: int = 0,
    trees: Trees = "best_ranked",
) -> Dialect | None:
    """The dialect of a source.

    Args:
        records: its rows, from the first; no more are read than it takes.
        columns: what the user named; None: found out by looking.
        source: what errors call it.
        number: its place in the params, from 0, for errors.
        trees: which path is taken through a tree of replies.

    Returns:
        None if no record is an object.

    Raises:
        StageError: no dialect fits, several do, the named columns are not there, or it is data of a kind that is refused.
    """
    rows = list(islice(parse_objects(records), ROWS_TO_RECOGNIZE))
    if not rows:
        return None
    how = how_to_name(number)
    if columns is None:
        return recognize(rows, source, how, trees)
    return (
        find_named_pair(rows, columns, source, how)
        if isinstance(columns, PromptColumns)
        else find_named_chat(rows, columns.messages, source, how)
    )


def parse_objects(records: Iterable[bytes]) -> Iterator[Row]:
    """The records that are objects."""
    for record in records:
        try:
            yield parse_record(record)
        except Rejected:
            continue


def recognize(rows: Sequence[Row], source: str, how: str = "", trees: Trees = "best_ranked") -> Dialect:
    """The one dialect that most of the rows have; columns are known in capitals, too, where they fit no other way.

    Raises StageError, with `how` to name columns, if no dialect fits, if several fit the same rows, or if the data is refused.
    """
    if not any(any(find_dialects(row)) for row in rows):
        lowered = [lower_names(row) for row in rows]
        if lowered != rows and any(any(find_dialects(row)) for row in lowered):
            dialect = recognize(lowered, source, how, trees)
            return read_in_any_case(dialect, rows)
        rows = lowered if refusal(lowered, None) and not refusal(rows, None) else rows
    found = [{dialect.name: dialect for dialect in find_dialects(row, trees)} for row in rows]
    counts = Counter(name for dialects in found for name in dialects)
    best, most = counts.most_common(1)[0] if counts else ("", 0)
    beside = Counter(name for dialects in found if best in dialects for name in dialects)
    fits = {name: dialect for dialects in found for name, dialect in dialects.items() if beside[name] * 2 > most}
    no = refusal(rows, fits.get(best), trees)
    if no:
        raise StageError(f"{source} is {no}.\nColumns: {list_columns(rows)}.")
    if len(fits) == 1:
        return fits[best]
    why = (
        f"several layouts fit the same rows ({', '.join(sorted(fits))})" if fits else f"none is known.\nKnown: {KNOWN}"
    )
    raise StageError(
        f"the layout of {source} is not clear: {why}.\nColumns: {list_columns(rows)}.{header_hint(source)}\n{how}".rstrip()
    )


def read_in_any_case(dialect: Dialect, rows: Sequence[Row]) -> Dialect:
    """The same dialect for rows whose columns' names may be in capitals; its columns are called as the rows call them."""
    names = {name for row in rows for name in row if name.strip().lower() in dialect.columns}
    return replace(
        dialect,
        name=f"{dialect.name} (in any case)",
        turns=partial(lower_names_and_call, read=dialect.turns),
        tools=partial(lower_names_and_call, read=dialect.tools) if dialect.tools else None,
        columns=frozenset(names),
    )


def lower_names(row: Row) -> Row:
    """The row with the names of its columns in lower case; as it is where two would have the same name."""
    lowered = {name.strip().lower(): value for name, value in row.items()}
    return lowered if len(lowered) == len(row) else row


def lower_names_and_call(row: Row, read: Callable[[Row], Any]) -> Any:  # noqa: ANN401 - what `read` returns
    """What is read of a row whose columns' names may be in capitals. Raises Rejected."""
    return read(lower_names(row))


def header_hint(source: str) -> str:
    """Of a file whose first line names the columns: that it must."""
    named = ending_of(source).startswith((".csv", ".tsv", ".xlsx"))
    return " (The first line of the file must name the columns: put one there if it is a row.)" if named else ""


def find_named_pair(rows: Sequence[Row], columns: PromptColumns, source: str, how: str) -> Dialect:
    """The dialect of named prompt and answer columns. Raises StageError if no row has them."""
    wanted = [name for name in (columns.prompt, columns.answer, columns.system) if name is not None]
    missing = [name for name in wanted if not any(name in row for row in rows)]
    if missing:
        raise missing_column_error(source, missing, rows, how)
    system = () if columns.system is None else (columns.system,)
    thoughts = REASONING_OF.get(columns.answer)
    reasoning = thoughts if any(thoughts in row for row in rows) else None
    dialect = pair_dialect(columns.prompt, columns.answer, system, None, reasoning)
    return replace(dialect, named=True)


def find_named_chat(rows: Sequence[Row], column: str, source: str, how: str) -> Dialect:
    """The dialect of a named column of messages; its keys are found out by looking. Raises StageError if no row holds any there."""
    dialects = Counter(dialect for row in rows if (dialect := find_chat_dialect(row, column)))
    if not any(column in row for row in rows):
        raise missing_column_error(source, [column], rows, how)
    if not dialects:
        raise StageError(
            f"{source}: the column {column!r} holds no list of messages in the first {len(rows)} rows. Known: {KNOWN}."
        )
    dialect = dialects.most_common(1)[0][0]
    return replace(dialect, named=True)


def missing_column_error(source: str, missing: Sequence[str], rows: Sequence[Row], how: str) -> StageError:
    """The error for named columns that are not there."""
    return StageError(
        f"{source} has no column {' and no '.join(map(repr, missing))}. Columns: {list_columns(rows)}. {how}"
    )


def list_columns(rows: Sequence[Row]) -> str:
    """The columns of the rows, for an error: names alone, the commonest first."""
    counts = Counter(key for row in rows for key in row)
    named = ", ".join(repr(column[:40]) for column, _ in counts.most_common(NAMED_COLUMNS))
    more = len(counts) - NAMED_COLUMNS
    return (named or "none") + (f" and {more} more" if more > 0 else "")
