"""The contract of data/messages as a pandera schema, checked on what is about to be written."""

from functools import cache
from typing import TYPE_CHECKING

import pyarrow as pa

from stages.contracts.messages import ID_LENGTH, ROLES, SPLITS

if TYPE_CHECKING:
    import pandera.polars as pandera


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

    message = pl.Struct({"role": pl.String, "content": pl.String})
    role, content = pl.element().struct.field("role"), pl.element().struct.field("content")

    def each(name: str, condition: pl.Expr) -> pandera.Check:
        return pandera.Check(lambda data: data.lazyframe.select(condition), name=name)

    messages = pl.col("messages")
    roles = messages.list.eval(role)
    return pandera.DataFrameSchema(
        {
            "row_id": pandera.Column(
                pl.String,
                pandera.Check.str_matches(f"^[0-9a-f]{{{ID_LENGTH}}}$", error="row_id_is_hex"),
                nullable=False,
                unique=True,
            ),
            "row": pandera.Column(pl.Int64, pandera.Check.ge(0, error="row_not_negative"), nullable=False),
            "split": pandera.Column(pl.String, pandera.Check.isin(SPLITS, error="split_known"), nullable=False),
            "messages": pandera.Column(
                pl.List(message),
                [
                    each("has_messages", messages.list.len() > 0),
                    each("roles_known", messages.list.eval(role.is_in(ROLES)).list.all()),
                    each("nothing_null", messages.list.eval(role.is_null() | content.is_null()).list.any().not_()),
                    each("nothing_empty", messages.list.eval(content.str.len_bytes() > 0).list.all()),
                    each("system_only_first", roles.list.slice(1).list.contains("system").not_()),
                    each("ends_with_answer", roles.list.last() == "assistant"),
                ],
                nullable=False,
            ),
        },
        strict=True,
    )
