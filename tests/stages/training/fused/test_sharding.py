"""A base that is spread over processes gives the losses and gradients of a whole one; the processes are threads here."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from stages.training.distributed.process_group import ProcessGroup

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")

from stages.training.fused.model import attach  # noqa: E402
from stages.training.fused.sharding import Shards  # noqa: E402
from tests.stages.training.fused.support.fused_models import LENGTHS, batch, furthest, gradients, small_model  # noqa: E402

ITEMS = 37
TRAINED_ROWS = {"trainable_token_indices": {"embed_tokens": [3, 5]}}
PARTS = [(slice(0, 17), LENGTHS[:1]), (slice(17, 52), LENGTHS[1:3]), (slice(52, None), LENGTHS[3:])]
"""The conversations in three micro-batches."""
ROUNDED = 1e-6
"""Relative: models in float64, sums over processes in float32."""


def loss_of(model: Any, part: Any = slice(None), lengths: list[int] = LENGTHS) -> Any:
    ids, labels = batch()
    given = {"input_ids": ids[None, part], "labels": labels[None, part], "packed_seq_lengths": lengths}
    return model(**given, num_items_in_batch=ITEMS).loss


def each(work: Callable[[ProcessGroup, Any], Any], size: int, kept: int | None = None, **lora: Any) -> list[Any]:
    """What `work` gives in each of the processes that share one small model."""
    first = ProcessGroup(0, size)
    groups = [first, *(ProcessGroup(rank, size, first.store.port) for rank in range(1, size))]
    models = [small_model(tied=False, **lora) for _ in groups]

    def sharded(group: ProcessGroup) -> Any:
        model = models[group.rank]
        assert attach(model, kept_layers=kept, shards=Shards(group, torch.device("cpu"))) is None
        group.join(on_gpu=False)
        return work(group, model)

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(sharded, groups))


def step(group: ProcessGroup, model: Any, parts: list[Any]) -> tuple[float, dict[str, Any]]:
    """The whole step's loss and gradients, of which this process has some micro-batches."""
    total = torch.zeros(())
    for part, lengths in parts:
        loss = loss_of(model, part, lengths)
        loss.backward()
        total += loss.detach()
    trained = [value for value in model.parameters() if value.requires_grad]
    return float(group.end_backward(trained, total, stop=False, out_of_memory=False)), gradients(model)


def whole(kept: int | None = None, **lora: Any) -> tuple[float, dict[str, Any]]:
    model = small_model(tied=False, **lora)
    assert attach(model, kept_layers=kept) is None
    loss = loss_of(model)
    loss.backward()
    return float(loss.detach()), gradients(model)


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize(("kept", "lora"), [(None, {}), (0, {}), (1, TRAINED_ROWS)])
def test_sharded_step_equals_whole_however_its_micro_batches_are_dealt_out(
    size: int, kept: int | None, lora: dict[str, Any]
) -> None:
    def work(group: ProcessGroup, model: Any) -> Any:
        # the first has two micro-batches, the last one, in between there are processes with none; and in the second step nobody has any more
        mine = {0: PARTS[:2], size - 1: PARTS[2:]}.get(group.rank, [])
        return [step(group, model, mine), step(group, model, PARTS if group.rank == 0 else [])]

    loss, wanted = whole(kept, **lora)
    for steps in each(work, size, kept, **lora):
        for found, gradient in steps:
            assert found == pytest.approx(loss, rel=ROUNDED)
            assert furthest(gradient, wanted) < ROUNDED


def test_sharded_loss_without_gradients_equals_whole() -> None:
    def work(group: ProcessGroup, model: Any) -> float:
        model.eval()
        with torch.no_grad():
            total = sum(float(loss_of(model, *part)) for part in PARTS[group.rank :: 2])
        sums = torch.tensor([total], dtype=torch.float64)
        group.add_up(sums)
        return float(sums)

    assert each(work, 2) == pytest.approx([whole()[0]] * 2, rel=1e-12)


def test_sharded_process_that_runs_out_of_memory_in_a_pass_holds_up_nobody() -> None:
    def work(group: ProcessGroup, model: Any) -> tuple[bool, bool]:
        loss = loss_of(model)
        if group.rank != 1:
            loss.backward()
        # the second has broken off between forward and backward
        trained = [value for value in model.parameters() if value.requires_grad]
        group.end_backward(trained, loss.detach(), stop=False, out_of_memory=group.rank == 1)
        first = group.out_of_memory
        step(group, model, PARTS)
        return first, group.out_of_memory

    assert each(work, 2) == [(True, False)] * 2


def test_sharded_process_holds_its_part_of_the_linear_layers() -> None:
    def work(_: ProcessGroup, model: Any) -> tuple[int, int]:
        bases = [module.base_layer for module in model.modules() if hasattr(module, "base_layer")]
        left = sum(
            {
                base.weight.untyped_storage().data_ptr(): base.weight.untyped_storage().nbytes() for base in bases
            }.values()
        )
        return left, sum(base.weight.numel() * base.weight.element_size() for base in bases)

    for left, shapes in each(work, 2):
        assert left < shapes / 100
