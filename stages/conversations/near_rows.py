"""Which of the kept conversations nearly repeat another, decided when all have been seen; until then they wait in a file.

The file is Arrow without compression beside the outputs: written and read at the speed of memory, gone when the decision is carried out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stages.conversations.judging import JudgedBatch, NearPolicy, heldout_rows, whole_texts
from stages.conversations.row_accounting import Mask, RowAccount, mark_rejected
from stages.conversations.row_rules import NEAR_DUPLICATE, NEAR_HELDOUT
from stages.conversations.seen_share import SCHEMA
from stages.show.progress import progress

if TYPE_CHECKING:
    from stages.dedup.minhash import Sketches
    from stages.dedup.prefilter import HeldoutRuns, SamplingPlan, Signs


@dataclass(frozen=True)
class Decision:
    """For each kept conversation the index of another that it nearly repeats, or -1."""

    heldout: NDArray[np.int64]
    """A held-out one."""
    earlier: NDArray[np.int64]
    """An earlier one."""


def make_near_policy(duplicates: str, heldout: str, threshold: float, heldout_fraction: float) -> NearPolicy | None:
    """What is done with near rows, by standardize's params; None if nothing is."""
    if duplicates == "off" and (heldout == "keep" or not heldout_fraction):
        return None
    from stages.dedup.prefilter import plan_sampling

    return NearPolicy(duplicates, heldout, threshold, plan_sampling(duplicates, heldout_fraction, threshold))


class AllSigns:
    """The signs of all rows, in their order. Memory: 256 bytes for each sketched row, 4 for each place of the others, 12 for each held-out word."""

    def __init__(self, total: int, sampling: "SamplingPlan | None") -> None:
        """For `total` rows at most."""
        from stages.dedup.minhash import PERMUTATIONS

        self.hits = sampling.hits if sampling else 0
        # of what is not filled no page is touched
        self.sketches = np.empty((total, PERMUTATIONS), np.uint16)
        self.samples = np.empty((total, sampling.places if sampling else 0), np.uint32)
        self.runs: list[HeldoutRuns] = []
        self.sketched, self.heldout = np.zeros(total, np.bool_), np.zeros(total, np.bool_)
        self.ends: list[int] = []
        """By batch, which row follows it."""
        self.rows = self.sketches_made = 0

    def add(self, signs: "Signs", heldout: Mask) -> None:
        """Add the signs of the next rows, and which are held out."""
        part, sampled = slice(self.rows, self.rows + len(heldout)), self.rows - self.sketches_made
        self.sketched[part], self.heldout[part] = signs.sketched, heldout
        self.samples[sampled : sampled + len(signs.samples)] = signs.samples
        self.add_sketches(signs.sketches)
        self.runs.append(signs.runs)
        self.ends.append(part.stop)
        self.rows = part.stop

    def add_sketches(self, sketches: "Sketches") -> None:
        """Add the sketches of the next rows."""
        self.sketches[self.sketches_made : self.sketches_made + len(sketches)] = sketches
        self.sketches_made += len(sketches)

    def find_candidates(self) -> NDArray[np.int64]:
        """The rows without a sketch that may be near a held-out one."""
        from stages.dedup.prefilter import HeldoutRuns, may_repeat

        sampled = np.flatnonzero(~self.sketched[: self.rows])
        return sampled[may_repeat(self.samples[: len(sampled)], HeldoutRuns.join(self.runs), self.hits)]


def settle_near_rows(
    rows: Iterator[JudgedBatch], total: int, waiting: Path, near: NearPolicy, account: RowAccount
) -> Iterator[pa.RecordBatch]:
    """Decide about all rows; gives the conversations to keep, flagged where they nearly repeat an earlier one. Those that are dropped are added
    to `account`.

    Args:
        rows: all rows, with signs.
        total: how many there are at most.
        waiting: a file to write them to meanwhile; it is deleted at the end.
        near: what is done with them.
        account: what became of the rows.
    """
    ids: list[bytes] = []
    signs = AllSigns(total, near.sampling)
    with pa.OSFile(str(waiting), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for judged in rows:
            batch, fresh = account.add_judged(judged)
            if judged.signs is not None:
                signs.add(judged.signs.select(fresh), heldout_rows(batch))
            ids += map(bytes.fromhex, batch["row_id"].to_pylist())
            writer.write_batch(batch)
    decision = decide(signs, waiting, near)
    del signs
    start = 0
    with (
        progress("writing", len(ids)) as advance,
        pa.OSFile(str(waiting), "rb") as source,
        pa.ipc.open_file(source) as reader,
    ):
        for batch in map(reader.get_batch, range(reader.num_record_batches)):
            part = slice(start, start + batch.num_rows)
            yield apply_decision(batch, Decision(decision.heldout[part], decision.earlier[part]), near, ids, account)
            start = part.stop
            advance(batch.num_rows)
    waiting.unlink()


def decide(signs: AllSigns, waiting: Path, near: NearPolicy) -> Decision:
    """Find what nearly repeats what. A training row that goes for a held-out one's sake makes no other a near duplicate.

    Args:
        signs: the signs of all rows; the sketches of candidates are added.
        waiting: the file with the rows.
        near: what is done with them.
    """
    from stages.dedup.minhash import find_near_duplicates, find_near_heldout, sketch_texts

    candidates = signs.find_candidates()
    for texts in read_texts(waiting, candidates, signs.ends):
        signs.add_sketches(sketch_texts(texts))
    # candidates stand behind the others: each training row is compared with held-out ones alone, and these keep their order
    rows = np.concatenate([np.flatnonzero(signs.sketched), candidates])
    made = signs.sketches[: len(rows)]
    nothing = np.full(len(rows), -1, np.int64)
    of_heldout = find_near_heldout(made, signs.heldout[rows], near.threshold) if near.heldout == "drop" else nothing
    among = of_heldout < 0
    of_earlier = find_near_duplicates(made, among, near.threshold) if near.duplicates != "off" else nothing
    return Decision(map_to_all(of_heldout, rows, signs.rows), map_to_all(of_earlier, rows, signs.rows))


def map_to_all(found: NDArray[np.int64], rows: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """What was found among some rows, as indices among all: -1 for the others."""
    of = np.full(total, -1, np.int64)
    of[rows] = np.where(found >= 0, rows[found], -1)
    return of


def read_texts(waiting: Path, rows: NDArray[np.int64], ends: list[int]) -> Iterator[list[str]]:
    """The whole texts of rows of the waiting file, ascending, a batch at a time; other batches are not read.

    Args:
        waiting: the file.
        rows: the rows.
        ends: for each batch, which row follows it.
    """
    with pa.OSFile(str(waiting), "rb") as source, pa.ipc.open_file(source) as reader:
        for number, (start, end) in enumerate(pairwise([0, *ends])):
            first, last = np.searchsorted(rows, [start, end])
            if first < last:
                taken = reader.get_batch(number)["messages"].take(pa.array(rows[first:last] - start))
                yield whole_texts(taken)


def apply_decision(
    batch: pa.RecordBatch, of: Decision, near: NearPolicy, ids: list[bytes], account: RowAccount
) -> pa.RecordBatch:
    """The conversations of a batch that stay, flagged; the others are added to `account`."""
    dropped = {NEAR_HELDOUT: of.heldout}
    if near.duplicates == "drop":
        dropped[NEAR_DUPLICATE] = of.earlier
    elif (of.earlier >= 0).any():
        column = batch.schema.get_field_index("near_duplicate_of")
        batch = batch.set_column(column, batch.schema.field(column), look_up_ids(of.earlier, ids))
    stays = np.ones(batch.num_rows, np.bool_)
    for rule, others in dropped.items():
        goes = others >= 0
        if goes.any():
            account.reject(mark_rejected(batch.filter(pa.array(goes)), rule, look_up_ids(others[goes], ids)))
            stays &= ~goes
    return batch if stays.all() else batch.filter(pa.array(stays))


def look_up_ids(indices: NDArray[np.int64], ids: list[bytes]) -> pa.Array:
    """The row ids of conversations; null for -1."""
    return pa.array([ids[index].hex() if index >= 0 else None for index in indices.tolist()], pa.string())
