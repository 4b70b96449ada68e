"""Which layout a source's rows have, found out by looking at its first rows, or by the columns that the user named; pure functions."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice

from stages.conversations.canonical import parsed
from stages.conversations.dialects import KNOWN, Layout, Row, Turn, chat_layout_of, layouts_of, pair_layout
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


def layout_of(
    records: Iterable[bytes], columns: PromptColumns | ChatColumns | None, source: str, number: int = 0
) -> Layout | None:
    """The layout of a source.

    Args:
        records: its rows, from the first; no more are read than it takes.
        columns: what the user named; None: found out by looking.
        source: what errors call it.
        number: its place in the params, from 0, for errors.

    Returns:
        None if no record is an object.

    Raises:
        StageError: no layout fits, several do, the named columns are not there, or it is data of a kind that is refused.
    """
    rows = list(islice(objects(records), ROWS_TO_RECOGNIZE))
    if not rows:
        return None
    how = how_to_name(number)
    if columns is None:
        return recognized(rows, source, how)
    return (
        named_pair(rows, columns, source, how)
        if isinstance(columns, PromptColumns)
        else named_chat(rows, columns.messages, source, how)
    )


def objects(records: Iterable[bytes]) -> Iterator[Row]:
    """The records that are objects."""
    for record in records:
        try:
            yield parsed(record)
        except Rejected:
            continue


def recognized(rows: Sequence[Row], source: str, how: str = "") -> Layout:
    """The one layout that most of the rows have; columns are known in capitals, too, where they fit no other way.

    Raises StageError, with `how` to name columns, if no layout fits, if several fit the same rows, or if the data is refused.
    """
    if not any(any(layouts_of(row)) for row in rows):
        lowered = [in_lower_case(row) for row in rows]
        if lowered != rows and any(any(layouts_of(row)) for row in lowered):
            layout = recognized(lowered, source, how)
            return Layout(f"{layout.name} (in any case)", partial(turns_in_lower_case, layout=layout))
        rows = lowered if refusal(lowered, None) else rows
    found = [{layout.name: layout for layout in layouts_of(row)} for row in rows]
    counts = Counter(name for layouts in found for name in layouts)
    best, most = counts.most_common(1)[0] if counts else ("", 0)
    beside = Counter(name for layouts in found if best in layouts for name in layouts)
    fits = {name: layout for layouts in found for name, layout in layouts.items() if beside[name] * 2 > most}
    no = refusal(rows, fits.get(best))
    if no:
        raise StageError(f"{source} is {no}.\nColumns: {seen(rows)}.")
    if len(fits) == 1:
        return fits[best]
    why = (
        f"several layouts fit the same rows ({', '.join(sorted(fits))})" if fits else f"none is known.\nKnown: {KNOWN}"
    )
    raise StageError(
        f"the layout of {source} is not clear: {why}.\nColumns: {seen(rows)}.{no_names(source)}\n{how}".rstrip()
    )


def in_lower_case(row: Row) -> Row:
    """The row with the names of its columns in lower case; as it is where two would have the same name."""
    lowered = {name.strip().lower(): value for name, value in row.items()}
    return lowered if len(lowered) == len(row) else row


def turns_in_lower_case(row: Row, layout: Layout) -> list[Turn]:
    """The turns of a row whose columns' names may be in capitals. Raises Rejected."""
    return layout.turns(in_lower_case(row))


def no_names(source: str) -> str:
    """Of a file whose first line names the columns: that it must."""
    named = ending_of(source).startswith((".csv", ".tsv"))
    return " (The first line of the file must name the columns: put one there if it is a row.)" if named else ""


def named_pair(rows: Sequence[Row], columns: PromptColumns, source: str, how: str) -> Layout:
    """The layout of named prompt and answer columns. Raises StageError if no row has them."""
    wanted = [name for name in (columns.prompt, columns.answer, columns.system) if name is not None]
    missing = [name for name in wanted if not any(name in row for row in rows)]
    if missing:
        raise no_such_column(source, missing, rows, how)
    system = () if columns.system is None else (columns.system,)
    layout = pair_layout(columns.prompt, columns.answer, system)
    return Layout(layout.name, layout.turns, named=True)


def named_chat(rows: Sequence[Row], column: str, source: str, how: str) -> Layout:
    """The layout of a named column of messages; its keys are found out by looking. Raises StageError if no row holds any there."""
    layouts = Counter(layout for row in rows if (layout := chat_layout_of(row, column)))
    if not any(column in row for row in rows):
        raise no_such_column(source, [column], rows, how)
    if not layouts:
        raise StageError(
            f"{source}: the column {column!r} holds no list of messages in the first {len(rows)} rows. Known: {KNOWN}."
        )
    layout = layouts.most_common(1)[0][0]
    return Layout(layout.name, layout.turns, named=True)


def no_such_column(source: str, missing: Sequence[str], rows: Sequence[Row], how: str) -> StageError:
    """The error for named columns that are not there."""
    return StageError(f"{source} has no column {' and no '.join(map(repr, missing))}. Columns: {seen(rows)}. {how}")


def seen(rows: Sequence[Row]) -> str:
    """The columns of the rows, for an error: names alone, the commonest first."""
    counts = Counter(key for row in rows for key in row)
    named = ", ".join(repr(column[:40]) for column, _ in counts.most_common(NAMED_COLUMNS))
    more = len(counts) - NAMED_COLUMNS
    return (named or "none") + (f" and {more} more" if more > 0 else "")
