"""The rows that ours are compared with: TRL's own trainer, on a model of plain transformers (`hf`) or of Unsloth as published (`recipe`)."""

import tempfile
import time
from typing import Any

from tests.bench.train_data import Row, conversations, text_ids
from tests.bench.train_models import wait

LEARNING_RATE = 2e-4
"""Of every row, constant: what is compared is steps with the same number."""


def run_trainer(row: Row, model: Any, tokenizer: Any) -> dict[str, Any]:
    """The recipe's settings and its collator; each step has the conversations that the rows of ours have."""
    import torch
    from datasets import Dataset
    from transformers import DataCollatorForSeq2Seq, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    rows = conversations(row, 8 * (row.steps + 2), text_ids(model.config.vocab_size))
    dataset = Dataset.from_dict({"input_ids": [ids for ids, _ in rows], "labels": [labels for _, labels in rows]})
    marks: list[tuple[float, int]] = []
    seen = {"tokens": 0}

    class Marks(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            wait()
            marks.append((time.perf_counter(), seen["tokens"]))

    arguments = SFTConfig(
        output_dir=tempfile.gettempdir(),  # nothing is saved
        use_cpu=not torch.cuda.is_available(),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        max_steps=row.steps,
        learning_rate=LEARNING_RATE,
        # as the rows of ours have it, whatever their number of steps
        warmup_steps=0,
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",
        bf16=True,
        optim=row.optimizer,
        weight_decay=0.01,
        logging_steps=1,
        seed=3407,
        report_to="none",
        save_strategy="no",
        max_length=row.length,
        gradient_checkpointing=True,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=dataset,
        args=arguments,
        callbacks=[Marks()],
        data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True),
    )
    usual = trainer.training_step

    def counted(model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
        seen["tokens"] += int(inputs["attention_mask"].sum())
        return usual(model, inputs, *rest, **named)

    trainer.training_step = counted
    started = time.perf_counter()
    trainer.train()
    warm_up = max(2, row.steps // 4)
    (start, before), (end, after) = marks[warm_up - 1], marks[-1]
    return {
        "tokens_s": round((after - before) / (end - start)),
        "step_ms": round((end - start) / (len(marks) - warm_up) * 1000, 1),
        "first_step_s": round(marks[0][0] - started, 1),
        "tokens_step": round((after - before) / (len(marks) - warm_up)),
        "losses": [round(line["loss"], 4) for line in trainer.state.log_history if "loss" in line],
    }
