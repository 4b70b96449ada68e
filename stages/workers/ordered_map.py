"""A function over a stream of items in worker processes, results in the order of the items. Memory is bounded by a few items for each worker.

Processes are forked: they start in milliseconds with all imports done, and the function (a tokenizer inside, say) is inherited and
never pickled. A fork copies no threads, so it happens before the first item is read: at that time nothing of ours has started any
(pyarrow's readers, polars and rensa start theirs at their first call, in the parent after the fork or in the workers).
"""

import mmap
import os
import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from typing import Any, TypeVar

from stages.core.errors import StageError
from stages.core.execution import note_choice
from stages.core.parent_death import die_with_parent
from stages.workers.shared_memory import Parcel, allocate_segments, put, take

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2
"""Items under way for each worker: one being worked on and one that waits."""

inherited: tuple[Callable[[Any], Any], list[mmap.mmap]] | None = None
"""In a worker: the function that it carries out, and the segments of shared memory that items come in and results go out by."""


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], workers: int | None) -> Iterator[Result]:
    """`function` of each item, in order; the results are the same for any number of workers.

    Args:
        function: need not be picklable; what it raises is raised here, at its item's turn.
        items: read in this process, a few ahead of the results; must be picklable, as must be the results.
        workers: processes; None: one for each core. 1: no process, everything happens here.

    Raises:
        StageError: a worker was killed from outside.
    """
    count = count_workers(workers)
    note_choice({"runtime.workers": count}, "one a core, or one where the rows are few")
    if count == 1:
        yield from map(function, items)
        return
    shared = allocate_segments(AHEAD * count)
    pool = ProcessPoolExecutor(count, get_context("fork"), start_worker, (function, shared, os.getpid()))
    try:
        pool.submit(os.getpid)  # all processes start at the first call
        under_way: deque[tuple[int, Future[Parcel]]] = deque()
        free = deque(range(len(shared)))
        source = iter(items)
        while True:
            for item in islice(source, len(free)):
                segment = free.popleft()
                under_way.append((segment, pool.submit(carry_out, put(item, shared[segment]), segment)))
            if not under_way:
                return
            segment, coming = under_way.popleft()
            result = take(coming.result(), shared[segment])
            free.append(segment)
            yield result
    except BrokenProcessPool:
        raise StageError(
            "a worker process was killed, most likely because the machine ran out of memory. Lower runtime.workers "
            f"in params.yaml (now {count} processes)."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def count_workers(workers: int | None) -> int:
    """Processes to use for `runtime.workers`: None means one for each core that this process may run on."""
    return workers or len(os.sched_getaffinity(0))


def start_worker(function: Callable[[Any], Any], shared: list[mmap.mmap], parent: int) -> None:
    """In a new worker: keep the function and the segments; die with the parent; leave Ctrl-C to it."""
    global inherited  # noqa: PLW0603 - a worker process has one job
    inherited = function, shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(signal.SIGKILL, parent)


def carry_out(parcel: Parcel, segment: int) -> Parcel:
    """In a worker: the function's result, in the item's segment. An exception that cannot travel is told by its type and place alone."""
    if inherited is None:
        raise RuntimeError("a worker without a function")
    function, shared = inherited
    try:
        return put(function(take(parcel, shared[segment])), shared[segment])
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
        except Exception:  # noqa: BLE001 - whatever goes wrong there
            where = error.__traceback__
            while where and where.tb_next:
                where = where.tb_next
            line = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where else "?"
            raise RuntimeError(f"{type(error).__name__} in a worker at {line}") from None
        raise
