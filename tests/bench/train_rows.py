"""Training configurations, timed one after the other in this process: one line `ROW {json}` for each. `train.py` starts it.

usage: python -m tests.bench.train_rows MODEL NAME [NAME ...]     with NAMEs of ROWS, all of one load
"""

import gc
import itertools
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from tests.bench.apart import say_row
from tests.bench.train_data import ROWS, Conversation, Row, conversations, micro_batches
from tests.bench.train_models import load, old_torch_attention, plain_model

GIB = 2**30
FLOP_A_TOKEN = 14.2e9
"""Of the 3B shape without recomputation, as the issue counts it; the larger shape's is worked out."""


def matrix_rate() -> float:
    """TFLOP/s of a large bf16 matrix product on random values."""
    import torch

    size, times = 8192, 31
    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        left @ right
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(times + 1)]
    for mark in marks[:-1]:
        mark.record()
        left @ right
    marks[-1].record()
    torch.cuda.synchronize()
    each = sorted(one.elapsed_time(two) for one, two in itertools.pairwise(marks))
    return float(2 * size**3 / (each[times // 2] / 1000) / 1e12)


def run_ours(row: Row, model: Any, profile: bool) -> dict[str, Any]:
    """Our own loop around the fused model; nothing in it waits for the GPU."""
    import torch

    from stages.fused_model import FusedModel
    from stages.fused_support import unsupported

    reason = unsupported(model)
    if reason is not None:
        raise SystemExit(f"the fused model does not know this one: {reason}")
    for value in model.parameters():
        if value.requires_grad:
            value.data = value.data.float()
    model.train()
    fused = FusedModel(model, kept_layers=row.kept, loss_rows=row.loss_rows, resident=row.resident)
    standing = torch.cuda.memory_allocated()
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = make_optimizer(row, trained)
    warm_up = max(3, row.steps // 4)
    steps = [[prepared(lines) for lines in step] for step in micro_batches(row, row.steps + (3 if profile else 0))]
    losses: list[torch.Tensor] = []

    def step(number: int) -> None:
        items = sum(len(rows) for _, _, _, rows in steps[number])
        for ids, labels, lengths, rows in steps[number]:
            there = [value.to("cuda", non_blocking=True) for value in (ids, labels, rows)]
            loss = fused.loss(there[0], there[1], lengths, items, there[2])
            loss.backward()
            losses.append(loss.detach())
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    figures = timed(step, row.steps, warm_up, lambda number: sum(len(part[0]) for part in steps[number]))
    figures["standing_gib"] = round(standing / GIB, 2)
    figures["loss"] = round(float(torch.stack(losses).sum()) / row.steps, 4)
    if profile:
        show_cpu_profile(lambda: step(row.steps))
        show_profile(lambda: step(row.steps + 1), lambda: step(row.steps))
    return figures


def prepared(lines: list[Conversation]) -> tuple[Any, Any, list[int], Any]:
    """(ids, labels, the conversations' lengths, the tokens that predict a label) of a micro-batch, ready to be copied to the GPU."""
    import torch

    from stages.fused_model import labelled_rows

    ids = torch.tensor([number for line, _ in lines for number in line])
    labels = torch.tensor([number for _, line in lines for number in line])
    lengths = [len(line) for line, _ in lines]
    return ids.pin_memory(), labels.pin_memory(), lengths, labelled_rows(labels, lengths).pin_memory()


def make_optimizer(row: Row, trained: list[Any]) -> Any:
    """AdamW as the row names it."""
    import torch

    if row.optimizer == "adamw_8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(trained, lr=2e-4, weight_decay=0.01)
    return torch.optim.AdamW(trained, lr=2e-4, weight_decay=0.01, fused=True)


def timed(step: Callable[[int], None], steps: int, warm_up: int, tokens: Callable[[int], int]) -> dict[str, Any]:
    """Run the steps and time those after the warm-up. `tokens` gives a step's real ones."""
    import torch

    torch.cuda.synchronize()
    started = time.perf_counter()
    step(0)
    torch.cuda.synchronize()
    first = time.perf_counter() - started
    for number in range(1, warm_up):
        step(number)
    torch.cuda.synchronize()
    started = time.perf_counter()
    for number in range(warm_up, steps):
        step(number)
    launched = time.perf_counter() - started
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    count = sum(tokens(number) for number in range(warm_up, steps))
    return {
        "tokens_s": round(count / seconds),
        "step_ms": round(seconds / (steps - warm_up) * 1000, 1),
        "launch_ms": round(launched / (steps - warm_up) * 1000, 1),
        "first_step_s": round(first, 1),
        "tokens_step": round(count / (steps - warm_up)),
    }


def show_profile(step: Callable[[], None], warm_up: Callable[[], None]) -> None:
    """Print where one step's GPU time goes."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    warm_up()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        step()
        torch.cuda.synchronize()
    print(seen.key_averages().table(sort_by="self_cuda_time_total", row_limit=40, max_name_column_width=110))  # noqa: T201 - goes into the log


def show_cpu_profile(step: Callable[[], None]) -> None:
    """Print where the Python time of launching a step goes, the backward's with it."""
    import cProfile
    import pstats

    import torch

    with torch.autograd.set_multithreading_enabled(False), cProfile.Profile() as seen:
        step()
    torch.cuda.synchronize()
    pstats.Stats(seen).sort_stats("tottime").print_stats(45)


def run_trainer(row: Row, model: Any, tokenizer: Any) -> dict[str, Any]:
    """TRL's trainer with the recipe's settings and its collator."""
    import torch
    from datasets import Dataset
    from transformers import DataCollatorForSeq2Seq, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    rows = conversations(row, 8 * (row.steps + 2))
    dataset = Dataset.from_dict({"input_ids": [ids for ids, _ in rows], "labels": [labels for _, labels in rows]})
    marks: list[tuple[float, int]] = []
    seen = {"tokens": 0}

    class Marks(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            torch.cuda.synchronize()
            marks.append((time.perf_counter(), seen["tokens"]))

    arguments = SFTConfig(
        output_dir="/tmp/retune-bench",
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        max_steps=row.steps,
        learning_rate=2e-4,
        warmup_steps=2,
        lr_scheduler_type="linear",
        bf16=True,
        optim=row.optimizer,
        weight_decay=0.01,
        logging_steps=5,
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
    result = trainer.train()
    warm_up = max(2, row.steps // 4)
    (start, before), (end, after) = marks[warm_up - 1], marks[-1]
    return {
        "tokens_s": round((after - before) / (end - start)),
        "step_ms": round((end - start) / (len(marks) - warm_up) * 1000, 1),
        "first_step_s": round(marks[0][0] - started, 1),
        "tokens_step": round((after - before) / (len(marks) - warm_up)),
        "loss": round(float(result.training_loss), 4),
    }


def flop_a_token(row: Row) -> float:
    """As the issue counts: all tokens through all weights, forward and the backward's input gradient, causal attention in full."""
    if row.shape == "3b":
        return FLOP_A_TOKEN
    hidden, mlp, layers, keys, vocabulary = 4096, 14336, 32, 1024, 128256
    weights = layers * (2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * mlp) + hidden * vocabulary
    return 4.0 * weights + layers * 3.5 * 2 * row.length * hidden


def main() -> None:
    """Run the named rows."""
    folder, *names = sys.argv[1:]
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", UNSLOTH_DISABLE_STATISTICS="1")
    rows = {name.removesuffix("+profile"): ROWS[name.removesuffix("+profile")] for name in names}
    started = time.perf_counter()
    if any(row.backend != "hf" and row.shape == "3b" for row in rows.values()):
        import unsloth  # noqa: F401
    import torch

    if os.environ.get("RETUNE_BENCH_VARLEN") == "1" and "unsloth" in sys.modules:
        old_torch_attention()
    imported = time.perf_counter() - started
    rate = matrix_rate()
    model, loaded_as, loading = None, None, 0.0
    for name, row in rows.items():
        key = (row.backend == "hf", row.backend == "recipe", row.four, row.shape)
        torch.cuda.set_per_process_memory_fraction(1.0)
        if key != loaded_as:
            model = tokenizer = None
            gc.collect()
            torch.cuda.empty_cache()
            started = time.perf_counter()
            model, tokenizer = plain_model(folder) if row.backend == "hf" else (load(row, folder), None)
            loading, loaded_as = time.perf_counter() - started, key
        gc.collect()
        torch.cuda.empty_cache()
        if row.cap_gib is not None:
            torch.cuda.set_per_process_memory_fraction(row.cap_gib * GIB / torch.cuda.mem_get_info()[1])
        torch.cuda.reset_peak_memory_stats()
        try:
            if row.backend == "ours":
                figures = run_ours(row, model, f"{name}+profile" in names)
            else:
                from transformers import AutoTokenizer

                figures = run_trainer(row, model, tokenizer or AutoTokenizer.from_pretrained(folder))
        except Exception as error:  # noqa: BLE001 - the other rows are still wanted
            traceback.print_exc()
            figures = {"error": f"{type(error).__name__}: {error}"[:200]}
        figures |= {
            "row": name,
            "peak_gib": round(torch.cuda.max_memory_allocated() / GIB, 2),
            "reserved_gib": round(torch.cuda.max_memory_reserved() / GIB, 2),
            "cap_gib": row.cap_gib,
            "import_s": round(imported, 1),
            "load_s": round(loading, 1),
            "rate_tflop_s": round(rate),
            "share": round(figures.get("tokens_s", 0) * flop_a_token(row) / rate / 1e12, 3),
            "gpu": torch.cuda.get_device_name(),
            "torch": torch.__version__,
        }
        say_row(figures)


if __name__ == "__main__":
    main()
