"""What became of the rows: the counts, the lists of those set aside, and which conversations came before."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stages.contracts import messages as contract
from stages.conversations.dialects import Dialect
from stages.conversations.judging import JudgedBatch
from stages.conversations.note_counts import NoteCounts
from stages.conversations.row_rules import DUPLICATE, INVALID_UNICODE, RULES, fate_of
from stages.dataset_files.file_kinds import OLDER_EXCEL, SEPARATED, ending_of, place_in

Mask = NDArray[np.bool_]
TOLD = 3
"""Rules that the log names, those that set most rows aside; summary.json and the report have all."""


class RowAccount:
    """What became of the rows so far. Memory: some 100 bytes for each kept conversation."""

    def __init__(self, sources: Sequence[str], dialects: Sequence[Dialect | None], evaluation: Sequence[str]) -> None:
        """The sources' names and dialects, in their order; the evaluation sets' names."""
        self.sources, self.dialects, self.evaluation = sources, dialects, evaluation
        self.counts = {fate: np.zeros(len(sources), np.int64) for fate in contract.FATES}
        """By source, how many rows ended so."""
        self.raw = np.zeros(len(sources), np.int64)
        self.rules: Counter[str] = Counter()
        self.contaminated: Counter[int] = Counter()
        """By the number of the evaluation set."""
        self.matched: set[str] = set()
        """The ids and hashes of data/exclusions.csv that rows were excluded by."""
        self.notes = NoteCounts()
        self.near_duplicates = 0
        """Rows that are flagged as such."""
        self.rejected: list[pa.RecordBatch] = []
        self.excluded: list[pa.RecordBatch] = []
        self.seen: set[bytes] = set()
        """Ids of the conversations that came, to know a duplicate by: 16 bytes each."""

    def add_judged(self, rows: JudgedBatch) -> tuple[pa.RecordBatch, Mask]:
        """Account for a batch. Gives the conversations of it that no earlier row holds, and which of rows.kept these are."""
        for batch in (rows.kept, rows.rejected, rows.excluded):
            self.raw += self.count_by_source(batch)
        self.excluded.append(rows.excluded)
        self.matched |= rows.exclusions
        self.contaminated.update(rows.contaminated)
        self.notes.add(rows.notes)
        self.counts["excluded"] += self.count_by_source(rows.excluded)
        self.reject(rows.rejected)
        fresh = []
        for row_id in map(bytes.fromhex, rows.kept["row_id"].to_pylist()):
            fresh.append(row_id not in self.seen)
            self.seen.add(row_id)
        mask = np.array(fresh, np.bool_)
        if mask.all():
            return rows.kept, mask
        repeated = rows.kept.filter(pa.array(~mask))
        self.reject(mark_rejected(repeated, DUPLICATE, repeated["row_id"]))
        return rows.kept.filter(pa.array(mask)), mask

    def reject(self, rows: pa.RecordBatch) -> None:
        """Set rows of REJECTED_SCHEMA aside."""
        self.rejected.append(rows)
        rules = rows["rule"].to_pylist()
        self.rules.update(rules)
        fates = np.array([fate_of(rule) for rule in rules], np.str_)
        for fate in set(fates.tolist()):
            self.counts[fate] += self.count_by_source(rows, fates == fate)

    def keep(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Count conversations that are to be written; they come back as they are."""
        splits = rows["split"].to_numpy(zero_copy_only=False)
        for split in contract.SPLITS:
            self.counts[split] += self.count_by_source(rows, splits == split)
        self.near_duplicates += rows.num_rows - rows["near_duplicate_of"].null_count
        return rows

    def count_by_source(self, rows: pa.RecordBatch, mask: Mask | slice = slice(None)) -> NDArray[np.int64]:
        """Rows of each source."""
        return np.bincount(rows["source"].to_numpy()[mask], minlength=len(self.sources))

    def sort_rejected(self) -> pa.Table:
        """All that is set aside, in the order of the rows."""
        return pa.Table.from_batches(self.rejected, schema=contract.REJECTED_SCHEMA).sort_by("row")

    def describe_first_rejected(self) -> str:
        """Where the first row stands that was set aside, for an error; empty if there is none."""
        rows = self.sort_rejected().slice(0, 1).to_pylist()
        return "".join(f"; the first of them: {place_in(row['file'], row['line'])} ({row['rule']})" for row in rows)

    def summarize(self) -> dict[str, Any]:
        """summary.json. Raises RuntimeError if a row is unaccounted for."""
        ended = np.sum(list(self.counts.values()), axis=0)
        if (self.raw != ended).any():
            raise RuntimeError(f"{self.raw.tolist()} rows came in by source, {ended.tolist()} went out")
        dialects: Counter[str] = Counter()
        for index, dialect in enumerate(self.dialects):
            if dialect:
                dialects[dialect.name] += sum(int(self.counts[split][index]) for split in contract.SPLITS)
        return {
            "raw": int(self.raw.sum()),
            **{fate: int(counts.sum()) for fate, counts in self.counts.items()},
            "rules": {rule: self.rules[rule] for rule in RULES if self.rules[rule]},
            "dialects": dict(dialects),
            "sources": [
                {
                    "source": self.sources[index],
                    "layout": dialect.name if dialect else None,
                    "raw": int(self.raw[index]),
                    **{fate: int(counts[index]) for fate, counts in self.counts.items()},
                }
                for index, dialect in enumerate(self.dialects)
            ],
            "near_duplicates": self.near_duplicates,
            "contaminated": self.count_contaminated(),
            **self.notes.summarize(),
        }

    def count_contaminated(self) -> dict[str, int]:
        """{evaluation set: rows that hold a text of it and of none before it}."""
        return {
            name: self.contaminated[number] for number, name in enumerate(self.evaluation) if self.contaminated[number]
        }

    def find_file_not_utf8(self) -> str:
        """The first .csv or .tsv of whose rows some are not UTF-8; empty if there is none."""
        if not self.rules[INVALID_UNICODE]:
            return ""
        rows = self.sort_rejected()
        files = rows.filter(pc.equal(rows["rule"], INVALID_UNICODE))["file"].unique().to_pylist()
        return next((file for file in files if ending_of(file).startswith(SEPARATED)), "")

    def describe(self) -> str:
        """One line for the log: `10 rows (messages: role/content): 7 train, 1 heldout, 1 rejected (1 null_content: a message ...), 1 repeated (...), 0 excluded`."""
        names = dict.fromkeys(dialect.name for dialect in self.dialects if dialect)
        counts = {fate: int(counts.sum()) for fate, counts in self.counts.items()}
        always = (*contract.SPLITS, "rejected", "excluded")
        told = [
            f"{count} {fate}{self.describe_rules(fate)}" for fate, count in counts.items() if count or fate in always
        ]
        flagged = f"; {self.near_duplicates} flagged as near duplicates" if self.near_duplicates else ""
        by = ", ".join(f"{count} by {name}" for name, count in self.count_contaminated().items())
        held = f"; contaminated: {by}" if by else ""
        return f"{self.raw.sum()} rows ({', '.join(names) or 'no layout'}): {', '.join(told)}{flagged}{held}{self.notes.describe()}"

    def describe_rules(self, fate: str) -> str:
        """The rules by which rows ended so, in brackets, the one with the most rows first; empty where there are none."""
        mine = [rule for rule in RULES if self.rules[rule] and fate_of(rule) == fate]
        most = sorted(mine, key=lambda rule: -self.rules[rule])
        # one more takes no more room than to say that there is one more
        named = most if len(most) == TOLD + 1 else most[:TOLD]
        rules = ", ".join(f"{self.rules[rule]} {rule}: {RULES[rule]}" for rule in named)
        if len(named) < len(most):
            left = sum(self.rules[rule] for rule in most[TOLD:])
            rules += f", {left} by {len(most) - TOLD} other rules: data/messages/summary.json"
        if INVALID_UNICODE in most and (file := self.find_file_not_utf8()):
            rules += f"; {file} {OLDER_EXCEL}"
        return f" ({rules})" if rules else ""


def mark_rejected(kept: pa.RecordBatch, rule: str, of: pa.Array) -> pa.RecordBatch:
    """Conversations as rows of REJECTED_SCHEMA."""
    origin = [kept[name] for name in contract.REJECTED_SCHEMA.names[:-2]]
    rules = pa.array([rule] * kept.num_rows, pa.string())
    return pa.RecordBatch.from_arrays([*origin, rules, of], schema=contract.REJECTED_SCHEMA)
