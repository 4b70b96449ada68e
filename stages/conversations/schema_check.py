"""The contract of data/messages as a pandera schema, checked on what is written."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

import pyarrow as pa

from stages.arrow.tables import regroup
from stages.contracts.messages import ID_LENGTH, ROLES, SCHEMA, SPLITS
from stages.workers.without_pandas import hide_pandas

if TYPE_CHECKING:
    import pandera.polars as pandera


def check_passing(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same conversations, a row group at a time; each is validated beside what is done with it, and all are before this ends.

    Raises RuntimeError as `check_messages`, a row group or two behind.
    """
    # the thread starts with the first rows: workers are forked by then
    checks: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1) as thread:
        for table in regroup(batches, SCHEMA):
            for batch in table.combine_chunks().to_batches():
                checks.append(thread.submit(check_messages, batch))
                yield batch
            while len(checks) > 1:
                checks.popleft().result()
        for check in checks:
            check.result()


@hide_pandas()  # which polars and pandera would import, and can do without
def check_messages(batch: pa.RecordBatch) -> None:
    """Validate conversations, all rules at once.

    Raises RuntimeError with row ids and names of checks, never a text: such a row is a fault of the stage that made it.
    """
    import pandera.errors
    import polars as pl

    frame = pl.from_arrow(batch)
    if not isinstance(frame, pl.DataFrame):
        raise TypeError("check_messages needs a batch with columns")
    try:
        schema().validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as error:
        # the error's own text and failure cases hold whole conversations
        cases = error.failure_cases.select("check", "index").head(20).iter_rows()
        found = ", ".join(
            f"{check} at {frame['row_id'][index] if index is not None else 'the whole table'}" for check, index in cases
        )
        raise RuntimeError(f"conversations that break the contract of data/messages: {found}") from None


@cache
def schema() -> "pandera.DataFrameSchema":
    """Columns, types and what every conversation holds to."""
    import pandera.polars as pandera
    import polars as pl

    columns = dict.fromkeys(("role", "content", "tool_calls", "reasoning"), pl.String)
    message = pl.Struct({**columns, "train": pl.Boolean})
    role, content, calls, reasoning, train = (pl.element().struct.field(name) for name in (*columns, "train"))
    is_assistant = role == "assistant"
    messages = pl.col("messages").list

    def every(name: str, holds: pl.Expr) -> pandera.Check:
        """A condition of each message; null counts as broken."""
        return pandera.Check(
            lambda data: data.lazyframe.select(messages.eval(holds.fill_null(value=False)).list.all()), name=name
        )

    def each(name: str, holds: pl.Expr) -> pandera.Check:
        """A condition of each conversation."""
        return pandera.Check(lambda data: data.lazyframe.select(holds), name=name)

    return pandera.DataFrameSchema(
        {
            "row_id": pandera.Column(
                pl.String,
                pandera.Check.str_matches(f"^[0-9a-f]{{{ID_LENGTH}}}$", error="row_id_is_hex"),
                nullable=False,
                unique=True,
            ),
            "row": pandera.Column(pl.Int64, pandera.Check.ge(0, error="row_not_negative"), nullable=False),
            "source": pandera.Column(pl.Int32, pandera.Check.ge(0, error="source_not_negative"), nullable=False),
            "file": pandera.Column(pl.String, nullable=False),
            "line": pandera.Column(pl.Int64, pandera.Check.ge(1, error="line_from_1"), nullable=False),
            "split": pandera.Column(pl.String, pandera.Check.isin(SPLITS, error="split_known"), nullable=False),
            "near_duplicate_of": pandera.Column(pl.String, nullable=True),
            "tools": pandera.Column(pl.String, nullable=True),
            "options": pandera.Column(pl.String, nullable=True),
            "flags": pandera.Column(pl.List(pl.String), nullable=True),
            "messages": pandera.Column(
                pl.List(message),
                [
                    each("has_messages", messages.len() > 0),
                    each("ends_with_answer", messages.last().struct.field("role") == "assistant"),
                    every("roles_known", role.is_in(ROLES)),
                    every(
                        "contents_not_empty",
                        (content.str.len_bytes() > 0)
                        | (content.is_not_null() & (calls.is_not_null() | (role == "tool"))),
                    ),
                    every("calls_are_the_assistants", calls.is_null() | is_assistant),
                    every("reasoning_is_the_assistants", reasoning.is_null() | (is_assistant & (reasoning != ""))),
                    every("train_said", train | (train.is_not_null() & is_assistant)),
                    each("system_only_first", messages.slice(1).list.eval(role == "system").list.any().not_()),
                    each("something_to_train", messages.eval(is_assistant & train).list.any()),
                ],
                nullable=False,
            ),
        },
        strict=True,
    )
