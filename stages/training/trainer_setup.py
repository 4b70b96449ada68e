"""TRL's trainer and all that it needs, from the params."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from stages.contracts import tokens as token_files
from stages.core.errors import StageError
from stages.core.files import scratch
from stages.core.params import Runtime
from stages.models.base_model import device
from stages.training.checkpoints import Checkpoints
from stages.training.distributed.process_group import ProcessGroup
from stages.training.lora import checkpointing, compute_dtype, padding_id
from stages.training.planned_trainer import make_trainer_class
from stages.training.step_log import StepLog
from stages.training.step_plan import StepPlan
from stages.training.token_rows import TokenRows
from stages.training.trackers import live_callback, prepare_tracker
from stages.training.work import Work

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase
    from trl import SFTTrainer

    from stages.training.memory.plan import FittedRuntime
    from stages.training.params import TrainParams

log = logging.getLogger("retune")


def make_work(
    rows: TokenRows,
    plan: StepPlan,
    tokens: Path,
    tokenizer: "PreTrainedTokenizerBase",
    checkpoints: Checkpoints,
    params: "TrainParams",
    runtime: "FittedRuntime",
    group: ProcessGroup,
) -> Work:
    """What the trainer carries out. Raises StageError if the held-out loss is needed and no row is held out."""
    heldout = TokenRows(token_files.read_tokens(tokens / token_files.HELDOUT)) if params.eval_steps else None
    if heldout is not None and not heldout:
        said = "no conversation is held out, so no held-out loss is measured; standardize.heldout_fraction says how many are"
        if params.early_stopping or params.keep == "best":
            raise StageError(f"{said}. train.early_stopping and train.keep: best need it.")
        log.warning(said)
        heldout = None
    step_log = StepLog(
        plan,
        rows,
        logging_steps=params.logging_steps,
        eval_steps=params.eval_steps if heldout else None,
        patience=params.early_stopping,
    )
    return Work(
        rows=rows,
        heldout=heldout,
        eval_rows=params.eval_rows,
        layout=params.layout,
        micro_batch=runtime.micro_batch,
        pad_id=padding_id(tokenizer),
        pack_length=params.pack_length,
        step_log=step_log,
        checkpoints=checkpoints,
        keep_best=params.keep == "best",
        group=group,
    )


def make_trainer(
    model: "PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
    tokens: Path,
    work: Work,
    params: "TrainParams",
    runtime: Runtime,
) -> "SFTTrainer":
    """The trainer, set up for `work`. See `stages.training.planned_trainer` for what it adds to TRL's."""
    from datasets import Dataset, disable_caching
    from trl import SFTConfig

    disable_caching()
    if work.layout != "padded" and device(runtime) == "cuda":
        from unsloth.utils.hf_packed_attention import enable_hf_packed_attention

        # models that Unsloth leaves to transformers' code: its variable-length kernel in place of a mask of tokens x tokens
        enable_hf_packed_attention()
    dtype = compute_dtype(model)
    trackers = prepare_tracker(runtime.report_to, scratch() / "tracking")
    arguments = SFTConfig(
        output_dir=str(scratch() / "train"),
        # a batch is a whole step of the plan, which knows its micro-batches itself
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        max_steps=len(work.step_log.plan.steps),
        learning_rate=params.learning_rate,
        warmup_steps=params.warmup_steps,
        lr_scheduler_type=params.schedule,
        optim=params.optimizer,
        weight_decay=params.weight_decay,
        max_grad_norm=params.max_grad_norm,
        neftune_noise_alpha=params.neftune_noise_alpha,
        seed=params.seed,
        data_seed=params.seed,
        bf16=dtype == "bfloat16",
        fp16=dtype == "float16",
        use_cpu=device(runtime) == "cpu",
        gradient_checkpointing=checkpointing(runtime) is not False,
        loss_type="nll",
        # every step is looked at; which go into the step log is decided here, not by the trainer
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_strategy="no" if work.step_log.eval_steps is None else "steps",
        eval_steps=work.step_log.eval_steps,
        save_strategy="no" if runtime.save_steps is None else "steps",
        save_steps=runtime.save_steps or 1,
        report_to=trackers,
        disable_tqdm=True,
        max_length=None,
        packing=False,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    rows = Dataset.from_file(str(tokens / token_files.TRAIN))
    values = {name: value.data.float().clone() for name, value in model.named_parameters() if value.requires_grad}
    trainer = make_trainer_class()(
        model=model,
        args=arguments,
        # looked at by TRL when it sets up; the batches come from the plan
        train_dataset=rows,
        eval_dataset=None if work.heldout is None else rows,
        data_collator=list,
        processing_class=tokenizer,
    )
    if runtime.report_to == "dvclive":
        trainer.add_callback(live_callback(scratch() / "tracking"))
    for name, value in model.named_parameters():
        if name in values:
            # TRL rounds an adapter on a 4-bit base to bfloat16; small updates would then be lost
            value.data = values[name]
    return trainer
