"""A training by as many processes as a host has GPUs: each conversation once an epoch, and what one process learns. They are threads here."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from stages.contracts.tokens import SCHEMA
from stages.training.distributed.process_group import ProcessGroup
from stages.training.step_log import StepLog
from stages.training.step_plan import make_step_plan
from stages.training.token_rows import TokenRows
from stages.training.work import Work

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")

from stages.training.fused.model import attach  # noqa: E402
from stages.training.fused.sharding import Shards  # noqa: E402
from tests.stages.training.fused.support.fused_models import VOCABULARY, small_model  # noqa: E402

ROWS, EPOCHS = 30, 2.0


def rows() -> TokenRows:
    draw = np.random.default_rng(3)
    ids = [draw.integers(0, VOCABULARY, length) for length in draw.integers(4, 40, ROWS)]
    labels = [np.where(draw.random(len(part)) < 0.3, -100, part) for part in ids]
    names = [f"{number:032x}" for number in range(ROWS)]
    return TokenRows(pa.table({"row_id": names, "input_ids": ids, "labels": labels}, schema=SCHEMA))


@pytest.fixture(scope="module", autouse=True)
def one_thread_each() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(size: int, *, sharded: bool = False) -> tuple[list[list[float]], list[dict[str, Any]], list[list[int]]]:
    """(losses of the steps, trained parameters, rows in their order) of each of `size` processes."""
    first = ProcessGroup(0, size)
    groups = [first, *(ProcessGroup(rank, size, first.store.port if first.store else 0) for rank in range(1, size))]
    models = [small_model(tied=False) for _ in groups]

    def one(group: ProcessGroup) -> Any:
        model, data = models[group.rank], rows()
        shards = Shards(group, torch.device("cpu")) if sharded else None
        assert attach(model, kept_layers=1, shards=shards) is None
        group.join(on_gpu=False)
        # 23 and 7: with 8 processes one has no conversation in each epoch's last step
        plan = make_step_plan(data.lengths, "flattened", 1, steps=None, epochs=EPOCHS, sequences=23, pack_length=0)
        watch = StepLog(plan, data, logging_steps=1, eval_steps=None, patience=None)
        no: Any = None
        work = Work(data, None, 1, "flattened", 2, 0, None, watch, no, keep_best=False, group=group)
        trained = [value for value in model.parameters() if value.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=0.01)
        losses, seen = [], []
        for step in range(1, len(plan.steps) + 1):
            total = torch.zeros(())
            for batch in work.batches(step):
                loss = model(**batch.inputs, num_items_in_batch=work.count_labelled(step)).loss
                loss.backward()
                total += loss.detach()
                seen += batch.rows
            losses.append(float(group.end_backward(trained, total, stop=False, out_of_memory=False)))
            optimizer.step()
            optimizer.zero_grad()
        return losses, {str(number): value.detach() for number, value in enumerate(trained)}, seen

    with ThreadPoolExecutor(size) as pool:
        return tuple(zip(*pool.map(one, groups), strict=True))  # type: ignore[return-value]


@pytest.mark.parametrize(("size", "sharded"), [(4, False), (8, False), (8, True)])
def test_many_processes_train_each_conversation_once_an_epoch_and_learn_what_one_does(size: int, sharded: bool) -> None:
    (alone,), (wanted,), _ = train(1)
    losses, parameters, seen = train(size, sharded=sharded)
    assert sorted(row for part in seen for row in part) == sorted(list(range(ROWS)) * int(EPOCHS))
    assert all(seen)
    assert alone[-1] < alone[0] - 0.3
    for found, values in zip(losses, parameters, strict=True):
        assert found == losses[0]
        assert found == pytest.approx(alone, rel=5e-6)
        for name, value in values.items():
            assert torch.equal(value, parameters[0][name])
            assert float((value - wanted[name]).abs().max()) < 2e-5
