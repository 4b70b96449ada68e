"""Which columns of a dataset hold what, where looking cannot tell: said in `fetch_data.sources`, carried by data/raw/source.json, used by `standardize`."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Discriminator, Tag

from stages.core.params import Params


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


def tag_of(columns: object) -> str:
    """Which of the two is meant, so that an error speaks of one alone."""
    chat = isinstance(columns, ChatColumns) or (isinstance(columns, Mapping) and "messages" in columns)
    return "ChatColumns" if chat else "PromptColumns"


Columns = Annotated[
    Annotated[PromptColumns, Tag("PromptColumns")] | Annotated[ChatColumns, Tag("ChatColumns")], Discriminator(tag_of)
]
"""{prompt, answer, system} or {messages}."""
