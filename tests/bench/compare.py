"""Whether our path and the recipe's made the same tokens of the same rows, row by row, and what differs where they did not."""

from collections import Counter
from pathlib import Path
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from stages.contracts import messages as messages_contract
from stages.contracts import tokens as contract
from tests.bench.recipe import MAX_LENGTH

BOS = 128000


class Comparison(TypedDict):
    """What came of the comparison."""

    compared: int
    """Rows of the source."""
    equal: int
    """Rows with equal ids and labels in both, the recipe's second BOS left out."""
    doubled_bos: int
    """Rows to which the recipe (without a GPU) gave two BOS."""
    differences: dict[str, int]
    """Rows by what differs; with `equal` they add up to `compared`."""


Ids = npt.NDArray[np.integer]
Encoded = dict[int, tuple[Ids, Ids]]
"""Row number -> ids, labels."""


def compare(data: Path, theirs: Path, rows: int) -> Comparison:
    """Compare data/tokens of our project with the recipe's rows; both tell of each row which one of the source it was."""
    ours, dropped = our_rows(data)
    recipe = recipe_rows(theirs)
    kinds: Counter[str] = Counter()
    doubled = 0
    for row in range(rows):
        has_two = row in recipe and recipe[row][0][:2].tolist() == [BOS, BOS]
        doubled += has_two
        if row in ours and row in recipe:
            kinds[difference(ours[row], recipe[row], skip=int(has_two))] += 1
        elif row in ours:
            kinds["not_in_the_recipe's"] += 1
        else:
            kinds[f"not_in_ours ({dropped.get(row, 'unaccounted')})" if row in recipe else "in_neither"] += 1
    equal = kinds.pop("equal", 0)
    return {"compared": rows, "equal": equal, "doubled_bos": doubled, "differences": dict(kinds.most_common())}


def difference(ours: tuple[Ids, Ids], theirs: tuple[Ids, Ids], *, skip: int) -> str:
    """The kind of difference between two rows, `equal` for none. `skip`: tokens at the recipe's beginning that are one too many."""
    ids, labels = ours
    their_ids, their_labels = (values[skip:] for values in theirs)
    same = [np.array_equal(ids, their_ids), np.array_equal(labels, their_labels)]
    if all(same):
        return "equal"
    kept = MAX_LENGTH - skip
    if skip and len(ids) == MAX_LENGTH and np.array_equal([ids[:kept], labels[:kept]], [their_ids, their_labels]):
        return "equal_but_the_last_token (the recipe's second BOS takes its place)"
    return "labels" if same[0] else "ids"


def our_rows(data: Path) -> tuple[Encoded, dict[int, str]]:
    """The rows of data/tokens, held-out ones too, by their number in data/raw; and the rule of each that was set aside."""
    messages = pq.read_table(data / "messages" / messages_contract.MESSAGES, columns=["row_id", "row"])
    number = dict(zip(messages["row_id"].to_pylist(), messages["row"].to_pylist(), strict=True))
    found: Encoded = {}
    for name in contract.SPLITS.values():
        table = contract.read_tokens(data / "tokens" / name)
        found |= encoded(table, [number[row_id] for row_id in table["row_id"].to_pylist()])
    aside: dict[int, str] = {}
    for path in (data / "messages" / messages_contract.REJECTED, data / "tokens" / contract.REJECTED):
        table = pq.read_table(path, columns=["row", "rule"])
        aside |= dict(zip(table["row"].to_pylist(), table["rule"].to_pylist(), strict=True))
    return found, aside


def recipe_rows(path: Path) -> Encoded:
    """The rows that the recipe would train on."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
        table = reader.read_all()
        return encoded(table, [int(number) for number in table["source"].to_pylist()])


def encoded(table: pa.Table, numbers: list[int]) -> Encoded:
    """Ids and labels by row number: slices of the columns, not a Python number for each token."""
    found: Encoded = {}
    at = 0
    for batch in table.select(["input_ids", "labels"]).to_batches():
        ids, labels = (column.flatten().to_numpy() for column in batch.columns)
        stop = 0
        for length in batch["input_ids"].value_lengths().to_pylist():
            start, stop = stop, stop + length
            found[numbers[at]] = (ids[start:stop], labels[start:stop])
            at += 1
    return found
