"""What the processes of a training tell each other; here they are threads, each with its own connection."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from stages.training.distributed.process_group import ProcessGroup

pytestmark = pytest.mark.slow


def each(work: Callable[[ProcessGroup], Any], size: int = 3) -> list[Any]:
    """What `work` gives in each of the processes of a group."""
    first = ProcessGroup(0, size)
    groups = [first, *(ProcessGroup(rank, size, first.store.port) for rank in range(1, size))]

    def joined(group: ProcessGroup) -> Any:
        group.join(on_gpu=False)
        return work(group)

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(joined, groups))


def test_gradients_and_losses_are_added_up_and_a_process_without_any_counts_as_zero() -> None:
    import torch

    def work(group: ProcessGroup) -> tuple[list[float], list[float], float]:
        parameters = [torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(1, 1))]
        if group.rank != 1:
            parameters[0].grad = torch.tensor([1.0, 2.0]) * (group.rank + 1)
            parameters[1].grad = torch.tensor([[0.5]])
        loss = torch.tensor(0.25 * group.rank)
        whole = group.end_backward(parameters, loss, stop=False, out_of_memory=False)
        assert not group.stopping
        assert not group.out_of_memory
        first, second = (value.grad for value in parameters)
        assert first is not None
        assert second is not None
        assert second.shape == (1, 1)
        return first.tolist(), second.flatten().tolist(), float(whole)

    assert each(work) == [([4.0, 8.0], [1.0], 0.75)] * 3


@pytest.mark.parametrize("said", ["stop", "out_of_memory"])
def test_what_one_process_says_all_hear(said: str) -> None:
    import torch

    def work(group: ProcessGroup) -> tuple[bool, bool]:
        parameters = [torch.nn.Parameter(torch.ones(2))]
        flags = {"stop": False, "out_of_memory": False, said: group.rank == 2}
        # what a broken-off backward pass leaves must not reach the others
        parameters[0].grad = torch.full((2,), float("nan" if flags["out_of_memory"] else 1))
        group.end_backward(parameters, torch.tensor(0.0), **flags)
        assert parameters[0].grad is not None
        assert bool(parameters[0].grad.isfinite().all())
        return group.stopping, group.out_of_memory

    assert each(work) == [(said == "stop", said == "out_of_memory")] * 3


def test_values_of_any_size_are_gathered_in_the_order_of_ranks() -> None:
    wanted = [{"rank": rank, "text": "x" * 10**rank} for rank in range(3)]
    assert each(lambda group: group.gather(wanted[group.rank])) == [wanted] * 3


def test_parameters_that_drifted_apart_are_said_and_the_first_ones_taken(caplog: pytest.LogCaptureFixture) -> None:
    import torch

    def work(group: ProcessGroup) -> list[float]:
        values = [torch.nn.Parameter(torch.tensor([1.0, 2.0 + (group.rank == 1) * 1e-6]))]
        group.make_same(values)
        return [float(part) for part in values[0].detach()]

    assert each(work) == [[1.0, 2.0]] * 3
    assert "no longer the same" in caplog.text
    caplog.clear()
    each(lambda group: group.make_same([torch.nn.Parameter(torch.ones(3))]))
    assert caplog.text == ""


def test_group_of_one_leaves_all_as_it_is() -> None:
    import torch

    group, value = ProcessGroup(), torch.nn.Parameter(torch.ones(1))
    group.join(on_gpu=False)
    loss = torch.tensor(3.0)
    assert group.end_backward([value], loss, stop=True, out_of_memory=False) is loss
    assert value.grad is None
    assert group.gather("x") == ["x"]
