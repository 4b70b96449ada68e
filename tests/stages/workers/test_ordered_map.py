import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.core.errors import StageError
from stages.workers.ordered_map import AHEAD, count_workers, ordered_map
from tests.project import ROOT


def slow_first(number: int) -> tuple[int, int]:
    time.sleep(0.05 if number % 4 == 0 else 0)
    return number, os.getpid()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    found = list(ordered_map(slow_first, range(20), workers))
    assert [number for number, _ in found] == list(range(20))
    processes = {process for _, process in found}
    assert (processes == {os.getpid()}) == (workers == 1)
    assert len(processes) == workers


def test_function_that_cannot_be_pickled_is_carried_out() -> None:
    held = Path(os.devnull).open()  # noqa: SIM115 - something that no pickle carries
    assert list(ordered_map(lambda number: (number, held.fileno() > 0), range(3), 2)) == [(n, True) for n in range(3)]
    held.close()


@pytest.mark.parametrize("workers", [2, 3])
def test_items_are_read_no_further_ahead_than_promised(workers: int) -> None:
    read = 0

    def items() -> Iterator[int]:
        nonlocal read
        for number in range(1_000):
            read += 1
            yield number

    results = ordered_map(slow_first, items(), workers)
    for done in range(1, 10):
        next(results)
        assert read <= done + AHEAD * workers
    results.close()  # type: ignore[attr-defined]


def test_processes_are_there_before_the_first_item_is_read() -> None:
    before: list[int] = []

    def items() -> Iterator[int]:
        before.extend(children())
        yield from range(4)

    processes = {process for _, process in ordered_map(slow_first, items(), 2)}
    assert processes <= set(before)


def children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()]


class TwoArguments(Exception):  # noqa: N818 - one that no pickle can make again
    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def failing(number: int) -> int:
    if number == 3:
        raise StageError("row 3 is wrong")
    if number == 13:
        raise TwoArguments("sec", "ret")
    return number


@pytest.mark.parametrize("workers", [1, 2])
def test_exception_comes_as_itself_at_its_items_turn(workers: int) -> None:
    results = ordered_map(failing, range(8), workers)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(StageError, match="row 3 is wrong"):
        next(results)


def test_exception_that_cannot_travel_is_told_by_type_and_place() -> None:
    with pytest.raises(RuntimeError, match=r"TwoArguments in a worker at .*test_ordered_map\.py:\d+") as caught:
        list(ordered_map(failing, range(10, 15), 2))
    assert "secret" not in str(caught.value)


def die(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_killed_worker_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(StageError, match=r"killed.*memory.*runtime\.workers"):
        list(ordered_map(die, range(50), 2))


def test_consumer_that_stops_leaves_no_process() -> None:
    results = ordered_map(slow_first, range(100), 2)
    next(results)
    assert len(children()) == 2
    results.close()  # type: ignore[attr-defined]
    assert not children()


def test_workers_die_with_their_parent(tmp_path: Path) -> None:
    script = (
        "import os, sys, time; from pathlib import Path; from stages.workers.ordered_map import ordered_map\n"
        "def hold(n):\n    (Path(sys.argv[1]) / str(os.getpid())).touch(); time.sleep(600)\n"
        "list(ordered_map(hold, range(2), 2))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT)
    until(lambda: len(list(tmp_path.iterdir())) == 2)
    workers = [int(path.name) for path in tmp_path.iterdir()]
    process.kill()
    process.wait()
    until(lambda: not any(alive(worker) for worker in workers))


def alive(process: int) -> bool:
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def until(condition: object) -> None:
    deadline = time.monotonic() + 20
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_none_means_the_cores_that_the_process_may_run_on() -> None:
    assert count_workers(None) == len(os.sched_getaffinity(0))
    assert count_workers(5) == 5
