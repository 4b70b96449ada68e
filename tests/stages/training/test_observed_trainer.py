import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from stages.training.observed_trainer import name_optimizer, observe_groups, read_schedule


def linear(warm: int, steps: int) -> Callable[[int], float]:
    return lambda step: step / max(1, warm) if step < warm else max(0.0, (steps - step) / max(1, steps - warm))


def cosine(warm: int, steps: int) -> Callable[[int], float]:
    def factor(step: int) -> float:
        if step < warm:
            return step / max(1, warm)
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, steps - warm))))

    return factor


def constant(warm: int, _: int) -> Callable[[int], float]:
    return lambda step: step / warm if step < warm else 1.0


@pytest.mark.parametrize("warm", [0, 1, 6])
@pytest.mark.parametrize("make", [linear, cosine, constant])
def test_schedule_is_known_by_its_factors(make: Callable[[int, int], Callable[[int], float]], warm: int) -> None:
    named = ["constant", "constant_with_warmup"][warm > 0 :] if make is constant else [make.__name__]
    assert read_schedule(make(warm, 60), 60) == (warm, named)


def test_schedule_that_is_none_of_these_has_no_name() -> None:
    assert read_schedule(lambda step: max(0.0, 1 - (step / 60) ** 2), 60) == (0, [])


def test_schedule_of_a_training_within_its_warm_up_may_be_any() -> None:
    warm, names = read_schedule(linear(9, 20), 4)
    assert warm == 4
    assert names == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear", "cosine", "constant", "constant_with_warmup"])
@pytest.mark.parametrize(("warm", "steps"), [(0, 1), (0, 7), (3, 100), (5, 6)])
def test_schedules_of_transformers_are_known(name: str, warm: int, steps: int) -> None:
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.5, weight_decay=0.25)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=warm, num_training_steps=steps)
    found, names = read_schedule(scheduler.lr_lambdas[0], steps)
    assert found == (0 if name == "constant" else warm)
    assert name in names
    assert observe_groups(optimizer) == {"train.learning_rate": 0.5, "train.weight_decay": 0.25}


@pytest.mark.slow
def test_optimizers_are_named_by_what_they_are() -> None:
    import bitsandbytes
    import torch

    values = [torch.nn.Parameter(torch.zeros(1))]
    made = {
        "adamw_torch": torch.optim.AdamW(values),
        "adamw_torch_fused": torch.optim.AdamW(values, fused=True),
        "adamw_8bit": bitsandbytes.optim.AdamW(values, optim_bits=8),
        "paged_adamw_8bit": bitsandbytes.optim.AdamW(values, optim_bits=8, is_paged=True),
        "bitsandbytes.optim.adamw.AdamW": bitsandbytes.optim.AdamW(values, optim_bits=32),
        "torch.optim.sgd.SGD": torch.optim.SGD(values),
    }
    assert {name: name_optimizer(optimizer) for name, optimizer in made.items()} == {name: name for name in made}
    assert name_optimizer(SimpleNamespace(optimizer=made["adamw_8bit"])) == "adamw_8bit"


def test_groups_without_decay_hide_no_decay_and_several_rates_are_all_told() -> None:
    def group(rate: float, decay: float, *values: int) -> dict[str, object]:
        return {"params": list(values), "lr": 0.0, "initial_lr": rate, "weight_decay": decay}

    def look(*groups: dict[str, object]) -> dict[str, object]:
        return observe_groups(SimpleNamespace(param_groups=list(groups)))

    assert look(group(0.1, 0.01, 1), group(0.1, 0.0, 2)) == {"train.learning_rate": 0.1, "train.weight_decay": 0.01}
    assert look(group(0.1, 0.0, 1), group(9.0, 0.5)) == {"train.learning_rate": 0.1, "train.weight_decay": 0.0}
    assert look(group(0.1, 0.0, 1), group(0.2, 0.0, 2))["train.learning_rate"] == [0.1, 0.2]
