"""How much of a GPU's memory a training may take: as torch says it, or nvidia-smi where torch is not loaded."""

import os
import subprocess
from dataclasses import dataclass
from functools import cache

from stages.training.memory.estimate import GIB

CONTEXT = 0.6 * GIB
"""What CUDA takes for a process itself; nvidia-smi's free memory is before that, torch's after it."""
SPARE = 0.2 * GIB
"""Left free."""
FIELDS = "name,memory.total,memory.free,compute_cap"


@dataclass(frozen=True)
class Gpu:
    """A GPU before anything is loaded."""

    name: str
    total: float
    """Bytes."""
    free: float
    """Bytes."""
    capability: float | None

    def room(self, limit_gib: float | None) -> float:
        """Bytes that training may take. `limit_gib` as `runtime.memory_limit_gb`."""
        return limit_room(self.free - CONTEXT, limit_gib)


def limit_room(free: float, limit_gib: float | None) -> float:
    """Bytes that training may take of `free` ones."""
    room = free - SPARE
    return room if limit_gib is None else min(room, limit_gib * GIB)


def limit_allocator(limit_gib: float | None) -> None:
    """Hold torch's allocator on this GPU to `runtime.memory_limit_gb`."""
    import torch

    if limit_gib is not None:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit_gib * GIB / total))


@cache
def visible_gpus() -> tuple[str, ...]:
    """The GPUs that this process sees before it uses one, by the names that CUDA_VISIBLE_DEVICES takes."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(named.split(",")[:count]) if named else tuple(str(number) for number in range(count))


def query_gpus() -> list[Gpu]:
    """The GPUs that nvidia-smi names and CUDA_VISIBLE_DEVICES lets us see."""
    try:
        command = ["nvidia-smi", f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    found = []
    for line in said.splitlines():
        name, *numbers = line.split(", ")
        try:
            total, free, capability = map(float, numbers)
        except ValueError:
            continue
        found.append(Gpu(name, total * 2**20, free * 2**20, capability))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not all(part.isdecimal() for part in visible.split(",") if part):
        return found
    return [found[int(part)] for part in visible.split(",") if part and int(part) < len(found)]
