"""Which of the kept conversations nearly repeat another, decided when all have been seen; until then they wait in a file.

The file is Arrow without compression beside the outputs: written and read at the speed of memory, gone when the decision is carried out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stages.contracts import messages as contract
from stages.judging import Judged
from stages.outcome import Mask, Outcome, with_rule

SPLIT_HELDOUT = "heldout"


@dataclass(frozen=True)
class Near:
    """What is done with near duplicates, as in standardize's params."""

    duplicates: str
    heldout: str
    threshold: float


@dataclass(frozen=True)
class Decision:
    """For each kept conversation the index of another that it nearly repeats, or -1."""

    heldout: NDArray[np.int64]
    """A held-out one."""
    earlier: NDArray[np.int64]
    """An earlier one."""


def decided(
    rows: Iterator[Judged], total: int, waiting: Path, near: Near, outcome: Outcome
) -> Iterator[pa.RecordBatch]:
    """The conversations to keep, flagged where they nearly repeat an earlier one; those that are dropped are added to `outcome`.

    Args:
        rows: all rows, with sketches.
        total: how many there are at most.
        waiting: a file to write them to meanwhile.
        near: what is done with them.
        outcome: what became of the rows.
    """
    from stages.near_duplicates import PERMUTATIONS

    sketches = np.empty((total, PERMUTATIONS), np.uint16)  # of what is not filled no page is touched
    heldout = np.zeros(total, np.bool_)
    ids: list[bytes] = []
    with pa.OSFile(str(waiting), "wb") as sink, pa.ipc.new_stream(sink, contract.SCHEMA) as writer:
        for judged in rows:
            batch, fresh = outcome.first_come(judged)
            part = slice(len(ids), len(ids) + batch.num_rows)
            sketches[part] = judged.sketches[fresh] if judged.sketches is not None else 0
            heldout[part] = batch["split"].to_numpy(zero_copy_only=False) == SPLIT_HELDOUT
            ids += map(bytes.fromhex, batch["row_id"].to_pylist())
            writer.write_batch(batch)
    decision = decide(sketches[: len(ids)], heldout[: len(ids)], near)
    del sketches
    start = 0
    with pa.OSFile(str(waiting), "rb") as source, pa.ipc.open_stream(source) as reader:
        for batch in reader:
            part = slice(start, start + batch.num_rows)
            yield carried_out(batch, Decision(decision.heldout[part], decision.earlier[part]), near, ids, outcome)
            start = part.stop
    waiting.unlink()


def decide(sketches: NDArray[np.uint16], heldout: Mask, near: Near) -> Decision:
    """Find what nearly repeats what. A training row that goes for a held-out one's sake makes no other a near duplicate."""
    from stages.near_duplicates import near_duplicates, near_heldout

    nothing = np.full(len(sketches), -1, np.int64)
    of_heldout = near_heldout(sketches, heldout, near.threshold) if near.heldout == "drop" else nothing
    among = of_heldout < 0
    of_earlier = near_duplicates(sketches, among, near.threshold) if near.duplicates != "off" else nothing
    return Decision(of_heldout, of_earlier)


def carried_out(batch: pa.RecordBatch, of: Decision, near: Near, ids: list[bytes], outcome: Outcome) -> pa.RecordBatch:
    """The conversations of a batch that stay, flagged; the others are added to `outcome`."""
    dropped = {"near_heldout": of.heldout}
    if near.duplicates == "drop":
        dropped["near_duplicate"] = of.earlier
    elif (of.earlier >= 0).any():
        column = batch.schema.get_field_index("near_duplicate_of")
        batch = batch.set_column(column, batch.schema.field(column), named(of.earlier, ids))
    stays = np.ones(batch.num_rows, np.bool_)
    for rule, others in dropped.items():
        goes = others >= 0
        if goes.any():
            outcome.reject(with_rule(batch.filter(pa.array(goes)), rule, named(others[goes], ids)))
            stays &= ~goes
    return batch if stays.all() else batch.filter(pa.array(stays))


def named(indices: NDArray[np.int64], ids: list[bytes]) -> pa.Array:
    """The row ids of conversations; null for -1."""
    return pa.array([ids[index].hex() if index >= 0 else None for index in indices.tolist()], pa.string())
