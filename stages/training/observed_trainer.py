"""What a training did, by its optimizer, its schedule, its batches and its step log: what stands against `train` in the execution record."""

import math
from collections.abc import Callable
from typing import Any

from stages.core.execution import guard_notes, note_choice, note_ran, note_unknown
from stages.training.observed_model import observe_model, one_of
from stages.training.params import TrainParams
from stages.training.work import Work

FITS = 1e-6
"""By how much a schedule's factor may differ from a formula's."""
RESUMED = "it went on from a checkpoint, and only the steps after it were seen"
TRACKERS = {
    "TensorBoardCallback": "tensorboard",
    "WandbCallback": "wandb",
    "MLflowCallback": "mlflow",
    "TrackioCallback": "trackio",
    "DVCLiveCallback": "dvclive",
}
"""{transformers' callback: value of `runtime.report_to`}."""


@guard_notes
def note_training(trainer: Any, work: Work, params: TrainParams, *, checkpointing: str, fresh: bool | None) -> None:  # noqa: ANN401 - a PlannedTrainer
    """Note what ran for the execution record.

    Args:
        trainer: as it is when the last step has ended.
        work: what it carried out.
        params: the `train` section: only for the order of names, the formula to try first, and reasons.
        checkpointing: the policy of the plan that was taken.
        fresh: whether the adapter changed nothing before the first step; None: not known.
    """
    found = observe_model(trainer.model, params.lora.target_modules, params.lora.modules_to_save)
    place = str(found["runtime.device"])
    no_kernels = "on a CPU, which has no 8-bit kernels, all kinds are the fused AdamW" if place == "cpu" else ""
    note_ran({key: found[key] for key in found if key not in ("train.dtype", "runtime.device", "runtime.sharding")})
    note_choice({"train.dtype": found["train.dtype"], "runtime.device": place}, f"what this machine has: {place}")
    note_ran(
        {"runtime.sharding": found["runtime.sharding"]},
        "one process holds all of the base" if work.group.size == 1 else "",
    )
    note_ran({"train.seed": one_of({trainer.args.seed, trainer.args.data_seed})})
    if fresh is not None:
        note_ran({"train.init_adapter": "none" if fresh else "custom"})
    note_ran({"train.max_grad_norm": trainer.args.max_grad_norm})
    note_ran({"train.neftune_noise_alpha": getattr(trainer, "neftune_noise_alpha", None)})
    if trainer.optimizer is not None and trainer.lr_scheduler is not None:
        note_ran({"train.optimizer": name_optimizer(trainer.optimizer)}, no_kernels)
        note_ran(observe_groups(trainer.optimizer))
        note_schedule(trainer.lr_scheduler, len(work.step_log.plan.steps), params)
    note_steps(work, params)
    note_measures(work, params)
    note_execution_keys(trainer, work, checkpointing, place)


def name_optimizer(optimizer: Any) -> str:  # noqa: ANN401 - torch's, maybe in accelerate's
    """An optimizer as `train.optimizer` names it; one that has no name there, by its class."""
    inner = getattr(optimizer, "optimizer", optimizer)
    kind = type(inner)
    if kind.__module__.startswith("bitsandbytes") and getattr(getattr(inner, "args", None), "optim_bits", 0) == 8:  # noqa: PLR2004
        return "paged_adamw_8bit" if getattr(inner, "is_paged", False) else "adamw_8bit"
    if kind.__module__.startswith("torch.optim") and kind.__name__ == "AdamW":
        return "adamw_torch_fused" if inner.defaults.get("fused") else "adamw_torch"
    return f"{kind.__module__}.{kind.__name__}"


def observe_groups(optimizer: Any) -> dict[str, object]:  # noqa: ANN401 - torch's, maybe in accelerate's
    """The highest learning rate and the decay, of the optimizer's groups that hold parameters; norms and biases are never decayed."""
    groups = [group for group in optimizer.param_groups if group["params"]]
    decays = {group["weight_decay"] for group in groups}
    return {
        "train.learning_rate": one_of({group.get("initial_lr", group["lr"]) for group in groups}),
        "train.weight_decay": one_of(decays - {0.0} or decays),
    }


def note_schedule(scheduler: Any, steps: int, params: TrainParams) -> None:  # noqa: ANN401 - torch's, maybe in accelerate's
    """Note warm-up and kind of the schedule, by the factors that it gives."""
    factors = getattr(getattr(scheduler, "scheduler", scheduler), "lr_lambdas", None)
    if not factors:
        return
    warm, names = read_schedule(factors[0], steps)
    none = "this schedule has no warm-up" if params.schedule == "constant" else "the training ended within its warm-up"
    note_ran({"train.warmup_steps": warm}, none)
    if names:
        note_ran({"train.schedule": params.schedule if params.schedule in names else names[0]})


def read_schedule(factor: Callable[[int], float], steps: int) -> tuple[int, list[str]]:
    """(steps of warm-up, names of the schedules that these factors are those of): several where too few steps tell them apart.

    Args:
        factor: of the learning rate, by the steps that were taken.
        steps: of the whole training.
    """
    warm = next((step for step in range(steps) if factor(step) >= 1.0), steps)
    rest = max(steps - warm, 1)
    forms: dict[str, Callable[[float], float]] = {
        "linear": lambda part: 1.0 - part,
        "cosine": lambda part: 0.5 * (1.0 + math.cos(math.pi * part)),
        "constant": lambda _: 1.0,
    }
    if warm:
        forms["constant_with_warmup"] = forms.pop("constant")
    else:
        forms["constant_with_warmup"] = forms["constant"]
    probes = range(warm, steps + 1, max(rest // 50, 1))
    fitting = [
        name
        for name, form in forms.items()
        if all(abs(factor(step) - form((step - warm) / rest)) < FITS for step in probes)
    ]
    return warm, fitting


def note_steps(work: Work, params: TrainParams) -> None:
    """Note how long it trained, and what a step was."""
    taken, planned = work.step_log.step, len(work.step_log.plan.steps)
    stopped = "early stopping ended it" if taken < planned else ""
    note_choice({"train.steps": taken}, stopped or "train.epochs says how long")
    epochs = work.step_log.plan.epoch(taken) if taken else 0.0
    note_choice(
        {"train.epochs": round(epochs, 6)},
        stopped or ("train.steps says how long" if params.epochs is None else "steps are whole"),
    )
    seen = work.seen
    if work.step_log.started_at:
        note_unknown(
            RESUMED, *(f"train.{key}" for key in ("layout", "conversations_per_step", "tokens_per_step", "pack_length"))
        )
        return
    layouts = seen.tell_layouts()
    packed = layouts == ["packed"]
    note_ran({"train.layout": layouts[0] if len(layouts) == 1 else layouts})
    fewer = "there are fewer training rows"
    most = max(seen.conversations.values())
    note_ran({"train.conversations_per_step": None if packed else most}, fewer)
    note_ran({"train.tokens_per_step": max(seen.tokens.values()) if packed else None}, fewer)
    length = one_of({int(size) if size == int(size) else size for size in seen.pack_lengths}) if packed else None
    note_ran({"train.pack_length": length})


def note_measures(work: Work, params: TrainParams) -> None:
    """Note what was logged and measured while it trained, and which step is kept."""
    lines, last = work.step_log.lines, work.step_log.step
    plain = [line["step"] for line in lines if line["eval_loss"] is None and line["step"] != last]
    if plain:
        note_ran({"train.logging_steps": plain[0]})
    elif len(lines) == 1 and params.logging_steps > last:
        note_ran({"train.logging_steps": None}, "the training has fewer steps: the last one is logged")
    measured = [line["step"] for line in lines if line["eval_loss"] is not None]
    why = "no row is held out" if work.heldout is None else "the training has fewer steps"
    note_ran({"train.eval_steps": measured[0] if measured else None}, why)
    if measured and work.seen.heldout:
        note_ran({"train.eval_rows": work.seen.heldout}, "fewer rows are held out")
    note_ran({"train.early_stopping": work.step_log.patience})
    kept = work.best is not None and work.kept_step() == work.step_log.best_step
    note_ran({"train.keep": "best" if kept else "last"}, "" if measured else why)


def note_execution_keys(trainer: Any, work: Work, checkpointing: str, place: str) -> None:  # noqa: ANN401 - a PlannedTrainer
    """Note the keys of `runtime` that a training uses."""
    note_choice(
        {"runtime.processes": work.group.size}, "one a GPU, one on the CPU; under torchrun as many as it started"
    )
    if work.step_log.started_at:
        note_unknown(RESUMED, "runtime.micro_batch")
    elif work.seen.largest:
        why = (
            "the plan's: see figures.plan"
            if work.seen.largest == work.micro_batch
            else "no step has more for one process"
        )
        note_choice({"runtime.micro_batch": work.seen.largest}, why)
    note_choice({"runtime.gradient_checkpointing": checkpointing}, "the plan's: see figures.plan")
    saves = trainer.args.save_strategy != "no"
    note_ran({"runtime.save_steps": trainer.args.save_steps if saves else None})
    names = {type(callback).__name__ for callback in trainer.callback_handler.callbacks}
    tools = sorted(tool for name, tool in TRACKERS.items() if name in names)
    note_ran({"runtime.report_to": tools[0] if len(tools) == 1 else tools or "none"})
    note_ran(
        {"runtime.memory_limit_gb": read_memory_limit(place)},
        "a limit of a GPU's memory, and it ran on the CPU" if place == "cpu" else "",
    )


def read_memory_limit(place: str) -> float | None:
    """GiB that torch's allocator may take of this GPU; None without a limit."""
    if place != "cuda":
        return None
    import torch

    part = torch.cuda.get_per_process_memory_fraction()
    return None if part >= 1.0 else round(part * torch.cuda.get_device_properties(0).total_memory / 2**30, 6)
