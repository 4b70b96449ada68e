"""Train a LoRA adapter on the base model: QLoRA through Unsloth and TRL's SFTTrainer, on CUDA or the CPU.

Reads  data/base, data/tokens (train.arrow and heldout.arrow with their labels as they are, the tokenizer),
       data/custom_adapter (an adapter to go on from, where train.init_adapter says so).
Writes data/adapter: a PEFT folder with the tokenizer, retune.json (how the base was loaded), steps.jsonl (loss by step),
       ledger.parquet (which row was trained in which steps).
       While it runs, checkpoints in .retune/checkpoints: a training that was ended by anything goes on from the last one.

    python -m stages.train --base data/base --tokens data/tokens --custom_adapter data/custom_adapter --adapter data/adapter

Over several hosts: docs/several-hosts.md.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from stages.core.errors import StageError
from stages.core.files import scratch
from stages.core.params import Runtime
from stages.core.parent_death import die_with_parent
from stages.core.runner import Finish, Input, Output, run
from stages.models.base_model import prepare_process
from stages.training.checkpoints import hold_training_lock
from stages.training.distributed.processes import start_processes, take_own_gpu
from stages.training.distributed.torchrun import ASKED, launch_here, read_launch
from stages.training.job import carry_out
from stages.training.memory.fit import fit_training, plan_inputs
from stages.training.memory.out_of_memory import go_on_smaller, is_out_of_memory, remove_note
from stages.training.memory.plan import find_smaller, read_plan
from stages.training.outputs import write_adapter
from stages.training.params import TrainParams
from stages.training.task import read_task
from stages.training.worker import take_part_under_torchrun

RUNTIME_KEYS = (
    "device",
    "processes",
    "sharding",
    "micro_batch",
    "memory_limit_gb",
    "save_steps",
    "report_to",
    "gradient_checkpointing",
)


def train(
    base: Input, tokens: Input, custom_adapter: Input, adapter: Output, params: TrainParams, runtime: Runtime
) -> Finish:
    """Train on the rows of train.arrow as they are: the labels are the template stage's.

    What is returned removes the checkpoints: to be called when the adapter is in its place and nothing can be lost any more.

    Raises:
        StageError: a row without a label, too long or with an id that the model lacks; a target module that the model lacks;
            a step without a gradient or with a loss that is no number; another training in this project; a signal to stop, after
            which the same command goes on where this one stopped; less memory than the smallest plan takes.
    """
    task = read_task(base, tokens, custom_adapter, params)
    folder = scratch() / "checkpoints"
    with hold_training_lock(folder):
        prepare_process(base, runtime)
        with take_own_gpu(runtime) as count:
            fitted, workload = fit_training(task, folder, runtime, processes=count)
            try:
                with start_processes(count, (base, tokens, custom_adapter), params, fitted) as group:
                    trainer, work = carry_out(task, fitted, group)
                write_adapter(trainer.model, task, work, adapter)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                failed = True
            else:
                failed = False
        if failed:
            taken = read_plan(fitted, workload.setup.shape.layers)
            asked, smaller = plan_inputs(params, runtime), find_smaller(workload, taken)
            go_on_smaller(folder, asked, workload.setup, taken, smaller, alone=read_launch() is None)

    def finish() -> None:
        work.checkpoints.remove()
        remove_note(folder)

    return finish


def uses(params: TrainParams, _inputs: Mapping[str, Path]) -> dict[str, list[str]]:
    """Of an adapter to go on from nothing, unless `init_adapter` asks for it."""
    return {} if params.init_adapter == "custom" else {"custom_adapter": []}


def main() -> None:
    """The stage's command, or another process's part in it (`stages.training.distributed.torchrun`)."""
    try:
        launch = read_launch()
    except StageError as error:
        sys.exit(f"train: {error}")
    if launch is None and os.environ.get(ASKED):
        die_with_parent()
        launch_here("stages.train")
    elif launch is None or launch.rank == 0:
        run(train, uses, runtime_keys=RUNTIME_KEYS)
    else:
        die_with_parent()
        take_part_under_torchrun(launch)


if __name__ == "__main__":
    main()
