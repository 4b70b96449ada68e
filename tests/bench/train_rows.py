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
from pathlib import Path
from typing import Any

from tests.bench.apart import say_row
from tests.bench.train_data import ROWS, Conversation, Row, micro_batches, text_ids
from tests.bench.train_models import first_values, load, old_torch_attention, plain_model, wait
from tests.bench.train_presets import as_preset
from tests.bench.train_reference import LEARNING_RATE, run_trainer

GIB = 2**30
FLOP_A_TOKEN = 14.2e9
"""Of the 3B shape without recomputation, as the issue counts it; the larger shape's is worked out."""


def matrix_rate() -> float:
    """TFLOP/s of a large bf16 matrix product on random values; 0 without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return 0.0
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

    from stages.training.fused.model import FusedModel
    from stages.training.fused.support import find_unsupported

    reason = find_unsupported(model)
    if reason is not None:
        raise SystemExit(f"the fused model does not know this one: {reason}")
    for value in model.parameters():
        if value.requires_grad:
            value.data = value.data.float()
    model.train()
    fused = FusedModel(model, kept_layers=row.kept, loss_rows=row.loss_rows, resident=row.resident, shards=None)
    standing = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = make_optimizer(row, trained)
    warm_up = max(3, row.steps // 4)
    cut = micro_batches(row, row.steps + (3 if profile else 0), text_ids(model.config.vocab_size))
    steps = [[prepared(lines) for lines in step] for step in cut]
    losses: list[list[torch.Tensor]] = [[] for _ in steps]
    device = model.device

    def step(number: int) -> None:
        items = sum(len(rows) for _, _, _, rows in steps[number])
        for ids, labels, lengths, rows in steps[number]:
            there = [value.to(device, non_blocking=True) for value in (ids, labels, rows)]
            loss = fused.loss(there[0], there[1], lengths, items, there[2])
            loss.backward()
            losses[number].append(loss.detach())
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    figures = timed(step, row.steps, warm_up, lambda number: sum(len(part[0]) for part in steps[number]))
    figures["standing_gib"] = round(standing / GIB, 2)
    figures["losses"] = [round(float(torch.stack(parts).sum()), 4) for parts in losses[: row.steps]]
    if profile:
        show_cpu_profile(lambda: step(row.steps))
        show_profile(lambda: step(row.steps + 1), lambda: step(row.steps))
    return figures


def prepared(lines: list[Conversation]) -> tuple[Any, Any, list[int], Any]:
    """(ids, labels, the conversations' lengths, the tokens that predict a label) of a micro-batch, ready to be copied to the GPU."""
    import torch

    from stages.training.fused.model import find_labelled_rows

    ids = torch.tensor([number for line, _ in lines for number in line])
    labels = torch.tensor([number for _, line in lines for number in line])
    lengths = [len(line) for line, _ in lines]
    found = (ids, labels, find_labelled_rows(labels, lengths))
    if torch.cuda.is_available():
        found = tuple(value.pin_memory() for value in found)
    return found[0], found[1], lengths, found[2]


def make_optimizer(row: Row, trained: list[Any]) -> Any:
    """AdamW as the row names it."""
    import torch

    if row.optimizer == "adamw_8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(trained, lr=LEARNING_RATE, weight_decay=0.01)
    return torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.01, fused=True)


def timed(step: Callable[[int], None], steps: int, warm_up: int, tokens: Callable[[int], int]) -> dict[str, Any]:
    """Run the steps and time those after the warm-up. `tokens` gives a step's real ones."""
    wait()
    started = time.perf_counter()
    step(0)
    wait()
    first = time.perf_counter() - started
    for number in range(1, warm_up):
        step(number)
    wait()
    started = time.perf_counter()
    for number in range(warm_up, steps):
        step(number)
    launched = time.perf_counter() - started
    wait()
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
    rate, on_gpu = matrix_rate(), torch.cuda.is_available()
    model, loaded_as, loading = None, None, 0.0
    for name, said in rows.items():
        row = as_preset(said, Path(folder)) if said.preset else said
        key = (row.backend == "hf", row.backend == "recipe", row.four, row.shape)
        cap_memory(None)
        if key != loaded_as:
            model = tokenizer = None
            gc.collect()
            torch.cuda.empty_cache()
            started = time.perf_counter()
            model, tokenizer = plain_model(folder) if row.backend == "hf" else (load(row, folder), None)
            loading, loaded_as = time.perf_counter() - started, key
        gc.collect()
        torch.cuda.empty_cache()
        cap_memory(row.cap_gib)
        first_values(model)
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
            "plan": {"tokens": row.tokens, "parts": row.parts, "kept_layers": row.kept, "loss_rows": row.loss_rows},
            "peak_gib": round(torch.cuda.max_memory_allocated() / GIB, 2) if on_gpu else None,
            "reserved_gib": round(torch.cuda.max_memory_reserved() / GIB, 2) if on_gpu else None,
            "cap_gib": row.cap_gib,
            "import_s": round(imported, 1),
            "load_s": round(loading, 1),
            "rate_tflop_s": round(rate),
            "share": round(figures.get("tokens_s", 0) * flop_a_token(row) / rate / 1e12, 3) if rate else 0.0,
            "gpu": torch.cuda.get_device_name() if on_gpu else "no GPU",
            "torch": torch.__version__,
        }
        say_row(figures)


def cap_memory(gib: float | None) -> None:
    """Hold torch's allocator to so much, and count its peak from here; None: to all there is."""
    import torch

    if not torch.cuda.is_available():
        return
    share = 1.0 if gib is None else gib * GIB / torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(share)
    torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    main()
