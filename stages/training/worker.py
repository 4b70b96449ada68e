"""One of the other processes of a training: it takes part in what the first one says, and ends with it.

python -m stages.training.worker JSON     is how the first process starts the others on its machine; torchrun starts the stage itself
"""

import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from stages.core.errors import StageError
from stages.core.params import Runtime
from stages.core.parent_death import die_with_parent
from stages.models.base_model import device, prepare_process
from stages.training.distributed.child_processes import AGREED
from stages.training.distributed.heartbeat import Launch
from stages.training.distributed.process_group import ProcessGroup
from stages.training.distributed.processes import share_threads, take_own_gpu
from stages.training.distributed.torchrun import join_launched_group
from stages.training.job import carry_out
from stages.training.memory.gpu import limit_allocator
from stages.training.memory.out_of_memory import is_out_of_memory
from stages.training.memory.plan import FittedRuntime
from stages.training.params import TrainParams
from stages.training.task import read_task


def main() -> None:
    """One of the others: take part in what the command line says, and end."""
    job = json.loads(sys.argv[1])
    die_with_parent(signal.SIGKILL, job["parent"])
    runtime = FittedRuntime.model_validate_json(job["runtime"]).model_copy(update={"report_to": "none"})
    logging.basicConfig(level=runtime.log_level.upper(), format="train: %(message)s", stream=sys.stdout)
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    base, tokens, first = map(Path, job["inputs"])

    def join() -> ProcessGroup:
        prepare_worker(job["rank"], job["size"], runtime)
        return ProcessGroup(job["rank"], job["size"], job["port"])

    try:
        take_part(base, tokens, first, TrainParams.model_validate_json(job["params"]), runtime, join)
    except Exception as error:
        if not (isinstance(error, StageError) or is_out_of_memory(error)):
            raise
        print(error, flush=True)
        sys.exit(AGREED)


def take_part_under_torchrun(launch: Launch) -> None:
    """One of the others that torchrun has started: take part in what the first one says, and end; with status 1 if it fails."""
    who = f"train, process {launch.rank} on {socket.gethostname()}"
    os.environ["TERM"] = "dumb"  # one progress bar is enough
    try:
        with join_launched_group(launch, None) as (group, job):
            runtime = FittedRuntime.model_validate_json(job["runtime"]).model_copy(update={"report_to": "none"})
            level = runtime.log_level.upper() if runtime.log_level == "debug" else "WARNING"
            logging.basicConfig(level=level, format=f"{who}: %(message)s", stream=sys.stdout)
            logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)

            def join() -> ProcessGroup:
                prepare_worker(launch.rank, launch.local_size, runtime)
                return group

            base, tokens, first = map(Path, job["inputs"])
            check_inputs_here(base, tokens, first)
            with take_own_gpu(runtime):
                take_part(base, tokens, first, TrainParams.model_validate_json(job["params"]), runtime, join)
    except Exception as error:
        if not (isinstance(error, StageError) or is_out_of_memory(error)):
            raise
        print(f"{who}: {error}", file=sys.stderr, flush=True)
        sys.exit(1)


def take_part(
    base: Path,
    tokens: Path,
    custom_adapter: Path,
    params: TrainParams,
    runtime: FittedRuntime,
    join: Callable[[], ProcessGroup],
) -> None:
    """What a process that another one has started does of a training: all but the outputs. `join` gives the group."""
    task = read_task(base, tokens, custom_adapter, params)
    prepare_process(base, runtime)
    carry_out(task, runtime, join())


def check_inputs_here(*inputs: Path) -> None:
    """Raise StageError if one of the inputs is not on this host."""
    missing = [str(path) for path in inputs if not path.exists()]
    if missing:
        raise StageError(
            f"{', '.join(missing)} is not on this host: `dvc pull fetch_model template` brings the inputs of train"
        )


def prepare_worker(rank: int, here: int, runtime: Runtime) -> None:
    """What one of the others needs of its own, `here` of them on this machine."""
    # each process writes its own: two would write one file at once
    os.environ["UNSLOTH_COMPILE_LOCATION"] += f"_{rank}"
    share_threads(here)
    if device(runtime) == "cuda":
        limit_allocator(runtime.memory_limit_gb)


if __name__ == "__main__":
    main()
