"""How many rows have which note: which keys of a dataset nothing reads, and what was changed in reading it."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from stages.conversations.row_notes import COLUMN, MESSAGE_KEY, Note
from stages.conversations.row_rules import CHANGES, HANDED_ON

MOST_NAMES = 2_000
"""Names of keys that are counted, of all kinds together: a dataset that has values for keys has no end of them."""
WEIGHTY = frozenset(
    {
        *(
            "weight",
            "loss_weight",
            "loss",
            "train",
            "train_detail",
            "train_on_input",
            "train_on_inputs",
            "mask",
            "masked",
        ),
        *(
            "reasoning_content",
            "reasoning",
            "thinking",
            "thoughts",
            "system_prompt",
            "tools",
            "functions",
            "tool_calls",
        ),
    }
)
"""Names of keys that say what is trained or thought: the log tells where these are not read."""


class NoteCounts:
    """The counts so far."""

    def __init__(self) -> None:
        """None yet."""
        self.rows: Counter[Note] = Counter()
        self.unlisted: set[Note] = set()
        """Notes past the bound, as far as these are told apart: at most as many again."""

    def add(self, notes: Mapping[Note, int]) -> None:
        """Count the notes of a batch, in the order in which they come."""
        for note, rows in notes.items():
            if note in self.rows or not note[1] or len(self.rows) < MOST_NAMES:
                self.rows[note] += rows
            elif len(self.unlisted) < MOST_NAMES:
                self.unlisted.add(note)

    def summarize(self) -> dict[str, Any]:
        """What stands in summary.json."""
        return {
            "ignored": {
                COLUMN: self.list_names(COLUMN),
                MESSAGE_KEY: self.list_names(MESSAGE_KEY),
                "more": len(self.unlisted),
            },
            HANDED_ON: self.list_names(HANDED_ON),
            **{kind: self.rows[kind, ""] for kind in CHANGES},
        }

    def list_names(self, kind: str) -> dict[str, int]:
        """{name: rows} of a kind, the commonest first, equally common ones by name."""
        found = {name: rows for (each, name), rows in self.rows.items() if each == kind and name}
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def describe(self) -> str:
        """What the log says of it, from a semicolon on; empty where nothing matters."""
        names = [
            (name, rows)
            for kind in (COLUMN, MESSAGE_KEY)
            for name, rows in self.list_names(kind).items()
            if name.rsplit(".", 1)[-1] in WEIGHTY
        ]
        said = [(self.rows[kind, ""], words) for kind, words in CHANGES.items()]
        said += [(rows, f"{name!r} is ignored") for name, rows in names]
        return "".join(f"; in {count_rows(rows)} {words}" for rows, words in said if rows)


def count_rows(rows: int) -> str:
    """A number of rows in words."""
    return f"{rows:,} {'row' if rows == 1 else 'rows'}"
