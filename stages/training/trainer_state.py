"""All that a training is at the end of a step, and putting it back so that the next step is the very same."""

import logging
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stages.core.errors import StageError

if TYPE_CHECKING:
    import torch

log = logging.getLogger("retune")


def training_state(trainer: Any, generators: Sequence[Mapping[str, Any]]) -> dict[str, Any]:  # noqa: ANN401 - a PlannedTrainer
    """Trained parameters, optimizer, schedule, loss scale, random generators, notes and best parameters, as plain values and tensors.

    All but the random generators is the same in every process of a training; `generators` are those of each.
    """
    scaler = trainer.accelerator.scaler
    return {
        "parameters": copy_trained(trainer.model),
        "optimizer": trainer.optimizer.state_dict(),
        "schedule": trainer.lr_scheduler.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "random": list(generators),
        "step_log": trainer.work.step_log.state(),
        "best": trainer.work.best,
    }


def restore(trainer: Any, state: Mapping[str, Any]) -> None:  # noqa: ANN401 - a PlannedTrainer
    """Put the trained parameters and the notes of a checkpoint back."""
    work = trainer.work
    set_trained(trainer.model, state["parameters"])
    work.step_log.restore(state["step_log"])
    work.best = state["best"]
    log.info("resumed after step %d of %d", work.step_log.step, len(work.step_log.plan.steps))


def resume_loop(trainer: Any, state: Mapping[str, Any]) -> None:  # noqa: ANN401 - a PlannedTrainer
    """Put the rest of a checkpoint back into a trainer that is about to take its first step."""
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.lr_scheduler.load_state_dict(state["schedule"])
    if state["scaler"] is not None and trainer.accelerator.scaler is not None:
        trainer.accelerator.scaler.load_state_dict(state["scaler"])
    trainer.state.global_step = trainer.work.step_log.step
    trainer._globalstep_last_logged = trainer.work.step_log.step  # noqa: SLF001 - else the first loss were a mean over all steps before
    rank = trainer.work.group.rank
    if rank < len(state["random"]):
        set_random_state(state["random"][rank])
    else:
        # there were fewer processes when it was saved
        draw_anew(trainer.args.seed, trainer.work.step_log.step, rank)


def copy_trained(model: "torch.nn.Module") -> "dict[str, torch.Tensor]":
    """A copy of the parameters that are trained, by name, on the host."""
    return {
        name: value.detach().to("cpu", copy=True) for name, value in model.named_parameters() if value.requires_grad
    }


def set_trained(model: "torch.nn.Module", values: "Mapping[str, torch.Tensor]") -> None:
    """Put parameters in place. Raises StageError unless they are the model's trained ones, each of its shape."""
    import torch

    own = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in values.items()}:
        raise StageError("the saved parameters are not those of this adapter")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(values[name])


def draw_anew(seed: int, step: int, rank: int) -> None:
    """Set the random generators for a process that has none from before: dropout must not be the same in two of them."""
    from transformers import set_seed

    set_seed(random.Random(f"{seed}/{step}/{rank}").getrandbits(32))  # noqa: S311 - noise, no secret


def random_state() -> dict[str, Any]:
    """The random generators' states, as plain values and tensors."""
    import numpy as np
    import torch

    drawn: Any = np.random.get_state()  # noqa: NPY002 - the one that libraries draw from
    kind, keys, place, has_gauss, gauss = drawn
    version, words, python_gauss = random.getstate()
    return {
        "python": [version, list(words), python_gauss],
        "numpy": [kind, keys.tolist(), place, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """The opposite of `random_state`; generators of GPUs that are not here are left out."""
    import numpy as np
    import torch

    version, words, python_gauss = state["python"]
    random.setstate((version, tuple(words), python_gauss))
    kind, keys, place, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), place, has_gauss, gauss))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
