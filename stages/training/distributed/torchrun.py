"""A training whose processes torchrun has started, on one host or on several: who this process is among them, and how they live and end.

On every host: `torchrun ... -m stages.train FLAGS` (docs/several-hosts.md). Process 0 is the stage: it reads params.yaml, writes the
outputs, the records and the checkpoints. The others get the params from it; of theirs they read the inputs alone, which must be the same.

Where torchrun's options are in the environment (PET_NNODES and the like), `python -m stages.train FLAGS` starts torchrun itself: so
`dvc repro` trains over several hosts.
"""

import json
import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from stages.core.errors import StageError
from stages.training.distributed.heartbeat import GOOD, Heartbeat, Launch, connect
from stages.training.distributed.process_group import ProcessGroup

log = logging.getLogger("retune")

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
ASKED = "PET_NNODES"
"""torchrun's own variable for its option --nnodes."""


@cache
def read_launch() -> Launch | None:
    """What torchrun says of this process; None if it was not started so. Raises StageError if only a part of it is said.

    It is taken out of the environment: for Unsloth, transformers and accelerate each process trains alone (see `ProcessGroup`).
    """
    if "WORLD_SIZE" not in os.environ and "RANK" not in os.environ:
        return None
    missing = [name for name in NAMES if name not in os.environ]
    if missing:
        raise StageError(
            f"the environment says that this is one of several processes (RANK, WORLD_SIZE), but not {', '.join(missing)}: start them with "
            "torchrun (docs/several-hosts.md), or unset those variables"
        )
    rank, size, local_rank, local_size, host, port = (os.environ.pop(name) for name in NAMES)
    agent_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    for name in list(os.environ):
        if name.startswith(("TORCHELASTIC_", "GROUP_", "ROLE_")):
            del os.environ[name]
    return Launch(int(rank), int(size), int(local_rank), int(local_size), host, int(port), agent_store, attempt)


def launch_here(module: str) -> None:
    """Start `module` with this command line under torchrun, whose options are in the environment (PET_...), and end with it."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    try:
        run(parse_args(["-m", module, *sys.argv[1:]]))
    except (ChildFailedError, SignalException):
        sys.exit(1)  # the process has said why


def own_address(launch: Launch) -> str:
    """The address of this host as process 0's host sees it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((launch.host, launch.port))  # sends nothing
        address: str = probe.getsockname()[0]
    return address


@contextmanager
def join_launched_group(launch: Launch, job: Mapping[str, Any] | None) -> Iterator[tuple[ProcessGroup, dict[str, Any]]]:
    """In the block this process is one of the group, which is yielded with process 0's job. Raises StageError if another one is lost.

    Args:
        launch: who this is.
        job: what there is to do, as JSON values; None in all but process 0.
    """
    store = connect(launch)
    group = ProcessGroup(launch.rank, launch.size, store=store, address=own_address(launch))
    heartbeat = Heartbeat(launch, group)
    group.lost = lambda: heartbeat.lost is not None
    try:
        if job is not None:
            store.set("job", json.dumps(job))
        yield group, json.loads(store.get("job"))
    except BaseException as error:
        heartbeat.explain(error)
        raise
    else:
        heartbeat.say_last_word(GOOD)
    finally:
        heartbeat.over.set()


def check_same(group: ProcessGroup, inputs: Mapping[str, Any]) -> None:
    """Raise StageError, in every process, if one has other inputs, code or libraries than process 0.

    Args:
        group: joined.
        inputs: {what: JSON values}; of mappings what both have is compared.
    """
    first, *others = group.gather(dict(inputs))
    for rank, other in enumerate(others, start=1):
        for key, wanted in first.items():
            found = other[key]
            if isinstance(wanted, dict) and isinstance(found, dict):
                wrong = sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])
            else:
                wrong = [key] if wanted != found else []
            if wrong:
                raise StageError(
                    f"process {rank} has another {key} than process 0 ({', '.join(wrong[:5])}): bring its host to the same commit and environment, "
                    "and its inputs with `dvc pull`"
                )
