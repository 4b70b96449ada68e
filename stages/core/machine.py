"""The machine that a stage runs on, as far as it can be told in milliseconds: no program is started, no library loaded for it.

No name of a host, a user or a folder: what is published is not to tell them.
"""

import ctypes
import os
import platform
import re
import sys
import time
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

STARTED = 19
"""Of /proc/PID/stat, counted from 0 after the program's name: when it began, in clock ticks after the machine's start."""


class System(TypedDict):
    """The operating system."""

    name: str
    kernel: str
    libc: str


class Processor(TypedDict):
    """The processor and its memory."""

    model: str | None
    architecture: str
    cores: int
    """Logical cores of the machine."""
    usable_cores: int
    """Of them, those that this process may use."""
    memory_mib: int


class Gpus(TypedDict):
    """The NVIDIA GPUs of the machine, whether or not the stage used one."""

    driver: str | None
    names: list[str] | None
    """None: cannot be told without starting something."""


class Torch(TypedDict):
    """torch as the stage had it loaded."""

    version: str
    cuda: str | None
    """The CUDA release that torch was built for."""
    threads: int


def read_python() -> str:
    """Implementation and version of this Python."""
    return f"{platform.python_implementation()} {platform.python_version()}"


def read_system() -> System:
    """The operating system."""
    return System(name=platform.system(), kernel=platform.release(), libc=" ".join(platform.libc_ver()).strip())


def read_processor() -> Processor:
    """The processor and its memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Processor(
        model=read_processor_model(),
        architecture=platform.machine(),
        cores=os.cpu_count() or 1,
        usable_cores=len(os.sched_getaffinity(0)),
        memory_mib=memory // 2**20,
    )


def read_processor_model() -> str | None:
    """The processor's name, as Linux has it."""
    found = re.search(r"^model name\s*:\s*(.+)$", read_line_file(Path("/proc/cpuinfo")), re.MULTILINE)
    return found.group(1).strip() if found else None


def read_gpus() -> Gpus:
    """The GPUs: from torch and the driver's library where this process used a GPU, else from what the driver shows of itself."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        return Gpus(driver=read_driver() or ask_driver(), names=names)
    shown = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    found = [re.search(r"^Model:\s*(.+)$", read_line_file(file), re.MULTILINE) for file in shown]
    driver = read_driver()
    names = [model.group(1).strip() for model in found if model]
    return Gpus(driver=driver, names=names if shown or driver is None else None)


def read_driver() -> str | None:
    """The version of NVIDIA's driver, as it shows itself to Linux."""
    return read_line_file(Path("/sys/module/nvidia/version")).strip() or None


def ask_driver() -> str | None:
    """The version of NVIDIA's driver by its management library (NVML), which a process with CUDA has beside it."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        said = ctypes.create_string_buffer(80)
        if library.nvmlInit_v2() != 0:
            return None
        failed = library.nvmlSystemGetDriverVersion(said, ctypes.c_uint(len(said)))
        library.nvmlShutdown()
    except (OSError, AttributeError):
        return None
    return None if failed else said.value.decode()


def read_torch() -> Torch | None:
    """torch, if this process has loaded it."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_num_threads"):
        return None
    return Torch(version=str(torch.__version__), cuda=torch.version.cuda, threads=torch.get_num_threads())


def read_process_age() -> float | None:
    """Seconds since this process began (to a hundredth), what it has been before an `exec` included; None where Linux does not say."""
    # the name of the program, in brackets, may hold blanks
    fields = read_line_file(Path("/proc/self/stat")).rpartition(")")[2].split()
    if len(fields) <= STARTED:
        return None
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[STARTED]) / os.sysconf("SC_CLK_TCK")
    return max(age, 0.0)


def read_line_file(path: Path) -> str:
    """The text of a file of /proc or /sys; empty where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
