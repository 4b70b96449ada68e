"""All layouts that are known, in the order in which they are looked for. Pure functions.

The first kinds that fit hide the later ones: a set with messages often has their text, or a question's column, beside them.
"""

from collections.abc import Iterator

from stages.conversations.dialects import Dialect, Row
from stages.conversations.layouts_calls import find_calls_dialect
from stages.conversations.layouts_chat import CHAT_COLUMNS, find_chat_dialect, find_texts_dialect
from stages.conversations.layouts_pair import (
    PAIR_COLUMNS,
    RARE_PAIR_COLUMNS,
    find_pair_dialects,
    find_rare_pair_dialects,
)
from stages.conversations.layouts_reference import find_reference_dialect
from stages.conversations.layouts_transcript import MARKED, READERS, find_transcript_dialect
from stages.conversations.layouts_tree import Trees, find_tree_dialect

KNOWN = (
    f"a list of role/content, from/value or role/parts messages, of {{human, assistant}} exchanges or of texts in turn, in {', '.join(CHAT_COLUMNS)}; "
    "instruction/input/output; instruction/context/response; "
    + ", ".join(map("/".join, (*PAIR_COLUMNS, *RARE_PAIR_COLUMNS)))
    + ", with history; question/context/answers; query/tools/answers; a tree of replies in prompt; "
    + f"a text in the form of {', '.join((*MARKED, *READERS))}"
)


def find_dialects(row: Row, trees: Trees = "best_ranked") -> Iterator[Dialect]:
    """Every dialect that a row has; `trees`: which path is taken through a tree of replies."""
    if calls := find_calls_dialect(row):
        yield calls
        return
    found = [dialect for column in CHAT_COLUMNS if column in row and (dialect := find_chat_dialect(row, column))]
    found += find_pair_dialects(row)
    yield from found or find_rare_dialects(row, trees)


def find_rare_dialects(row: Row, trees: Trees) -> Iterator[Dialect]:
    """The dialects that are looked for where no common one fits."""
    found = [*find_rare_pair_dialects(row)]
    if not found:
        others = (
            find_reference_dialect(row),
            find_texts_dialect(row),
            find_tree_dialect(row, trees),
            find_transcript_dialect(row),
        )
        found += [dialect for dialect in others if dialect][:1]
    yield from found
