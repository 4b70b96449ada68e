"""What became of conversations as they were made tokens: the counts of data/tokens' summary.json and of the log."""

import json
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from stages.chat.fit_to_length import FittedBatch
from stages.chat.row_rules import RULES
from stages.contracts.tokens import NOT_TRAINED, SPLITS

PERCENTILES = (1, 10, 50, 90, 99)
NOTHING: tuple[object, ...] = (None, "", [], {})
TOLD = 3
"""Rules that the log explains, those that set most rows aside."""


@dataclass
class SplitCounts:
    """What has been counted of one split."""

    lengths: list[int] = field(default_factory=list)
    """Tokens of each row that is kept."""
    labelled: int = 0
    truncated: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    """How many rows each rule set aside."""

    def summarize(self) -> dict[str, object]:
        """For summary.json. `lengths`: rows by length, up to each power of two; `length`: its percentiles and extremes."""
        lengths = sorted(self.lengths)
        steps = Counter(1 << max(length - 1, 1).bit_length() for length in lengths)
        ranks = {f"p{share}": lengths[(len(lengths) - 1) * share // 100] for share in PERCENTILES} if lengths else {}
        return {
            "rows": len(lengths),
            "tokens": sum(lengths),
            "labelled_tokens": self.labelled,
            "truncated": self.truncated,
            "rejected": self.rejected.total(),
            "length": {**ranks, "min": lengths[0], "max": lengths[-1]} if lengths else {},
            "lengths": {str(step): steps[step] for step in sorted(steps)},
        }


class TokenAccount:
    """What became of the conversations so far. Memory: a number for each row."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.splits = {split: SplitCounts() for split in SPLITS}
        self.context: Counter[str] = Counter()
        """By rule, how many answers of kept rows were to be trained and may not be."""
        self.asked: Counter[str] = Counter()
        """By option for the chat template, how many rows ask for it."""
        self.rows_with_options = 0
        """Rows that ask something of the template themselves, be it nothing."""

    def count_options(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Batches of data/messages, as they are, their rows' options counted: those with a value."""
        for batch in batches:
            options = batch["options"]
            if asking := len(options) - options.null_count:
                self.rows_with_options += asking
                for text in options.drop_null().to_pylist():
                    self.asked.update(name for name, value in json.loads(text).items() if value not in NOTHING)
            yield batch

    def add(self, done: FittedBatch) -> None:
        """Count a batch."""
        for split, batch in done.tokens.items():
            counts = self.splits[split]
            counts.lengths += np.asarray(batch["input_ids"].value_lengths()).tolist()
            counts.labelled += int((np.asarray(batch["labels"].flatten()) != NOT_TRAINED).sum())
            counts.truncated += done.truncated[split]
        for split, rule in zip(*(done.rejected[name].to_pylist() for name in ("split", "rule")), strict=True):
            self.splits[split].rejected[rule] += 1
        self.context.update(done.context)

    @property
    def rules(self) -> Counter[str]:
        """How many rows each rule set aside, of both splits."""
        return sum((split.rejected for split in self.splits.values()), Counter())

    def summarize(self) -> dict[str, object]:
        """The counts of summary.json."""
        return {
            "rows_in": sum(len(split.lengths) for split in self.splits.values()) + self.rules.total(),
            "splits": {name: split.summarize() for name, split in self.splits.items()},
            "rejected": dict(self.rules),
            "answers_not_trained": dict(self.context),
        }

    def find_unread(self, read: Container[str]) -> dict[str, int]:
        """{option: rows that ask for it}, of those that the chat template does not read."""
        return {name: rows for name, rows in sorted(self.asked.items()) if name not in read}

    def describe(self) -> str:
        """One line for the log."""
        train, heldout = (self.splits[name] for name in SPLITS)
        total, rules = sum(train.lengths) + sum(heldout.lengths), self.rules
        told = [f"{count} {rule}: {RULES[rule]}" for rule, count in rules.most_common(TOLD)]
        if len(rules) > TOLD:
            told.append(f"{sum(count for _, count in rules.most_common()[TOLD:])} by {len(rules) - TOLD} other rules")
        left = ", ".join(f"{count} {rule}" for rule, count in self.context.most_common())
        rejected = f"{rules.total()} rejected" + (f" ({'; '.join(told)})" if told else "")
        context = f"; {self.context.total()} answers of kept rows are context ({left})" if left else ""
        return (
            f"{len(train.lengths)} train and {len(heldout.lengths)} heldout rows, {total} tokens, "
            f"{100 * (train.labelled + heldout.labelled) / total:.0f}% of them labelled; {rejected}, "
            f"{train.truncated + heldout.truncated} cut{context}"
        )
