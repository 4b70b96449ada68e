"""What the machine has: Python, packages, disk, memory, GPUs."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from retune.doctor.finding import Finding
from retune.doctor.params import param_value

GIB = 2**30
# what a stage takes before it has a model: training, with Unsloth, 1.7 GiB
IMPORTS = 2 * GIB
# the oldest Linux driver that runs programs of a CUDA release (NVIDIA's compatibility table)
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}


def check_python(root: Path) -> Finding:
    """Python against pyproject.toml's requires-python."""
    here = ".".join(map(str, sys.version_info[:3]))
    asked = (
        tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
        if (root / "pyproject.toml").is_file()
        else ""
    )
    for sign, version in re.findall(r"(>=|<)\s*([\d.]+)", asked):
        bound = tuple(map(int, version.split(".")))
        if (sys.version_info[:3] >= bound) != (sign == ">="):
            return Finding(
                "Python",
                "problem",
                f"{here}, and the project asks for {asked}",
                "make the environment with such a Python: `make setup`",
            )
    return Finding("Python", "ok", here)


def check_packages(root: Path) -> Finding:
    """What is installed against requirements.lock."""
    lock = root / "requirements.lock"
    if not lock.is_file():
        return Finding("packages", "warning", "no requirements.lock here")
    # a line with a marker (another platform) is not for everybody
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)\s*\\?$", lock.read_text(encoding="utf-8"), re.MULTILINE)
    wrong = [
        f"{name} is {have or 'missing'}, not {want}" for name, want in pins if (have := installed_version(name)) != want
    ]
    if wrong:
        return Finding(
            "packages",
            "warning",
            f"{len(wrong)} of {len(pins)} differ from requirements.lock: {'; '.join(wrong[:3])}",
            "`make setup` installs the pins",
        )
    return Finding("packages", "ok", f"{len(pins)} as in requirements.lock")


def check_fast_tokenizer(root: Path, environment: Path) -> Finding:
    """The libraries that make tokens faster, which live apart from the environment's own, against requirements-apart.lock."""
    from stages.tokenization.loading.fast_libraries import APART

    subject, todo = "fast tokenizer", "`make setup` installs it"
    lock = root / "requirements-apart.lock"
    if not lock.is_file():
        return Finding(subject, "warning", "no requirements-apart.lock here")
    want = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE))
    have = {
        name: found.version
        for name in want
        for found in importlib.metadata.distributions(name=name, path=[str(environment / APART)])
    }
    if not have:
        return Finding(subject, "warning", "not installed: making tokens takes many times longer", todo)
    wrong = [f"{name} is {have.get(name, 'missing')}, not {pin}" for name, pin in want.items() if have.get(name) != pin]
    if wrong:
        return Finding(subject, "warning", "; ".join(wrong), todo)
    return Finding(subject, "ok", ", ".join(f"{name} {version}" for name, version in have.items()))


def installed_version(name: str) -> str | None:
    """The installed version of a package, without a local suffix (+cu130)."""
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def check_disk(root: Path, weights: int) -> Finding:
    """Free space against what a run writes: base, merged and GGUF files, each once in data/ and once in DVC's cache."""
    free, need = shutil.disk_usage(root).free, 6 * weights + GIB
    text = f"{free / GIB:.1f} GiB free, a run needs about {need / GIB:.1f}"
    if free < need:
        return Finding(
            "disk", "problem", text, "make room: `dvc gc --workspace` removes what no longer belongs to this version"
        )
    return Finding("disk", "ok", text)


def check_memory(weights: int) -> Finding:
    """Available memory against the largest step: `gguf` runs the merged model whole, a small one in float32. The merge takes less: it goes
    tensor by tensor and layer by layer, with twice the largest shard at most.
    """
    from stages.gguf_export.reference import FLOAT32_BYTES

    file = Path("/proc/meminfo")
    if not file.is_file():
        return Finding("memory", "ok", "not known on this system")
    sizes = dict(re.findall(r"^(\w+):\s+(\d+) kB", file.read_text(encoding="ascii"), re.MULTILINE))
    free, need = int(sizes["MemAvailable"]) * 1024, whole_model_bytes(weights, FLOAT32_BYTES) + IMPORTS
    text = f"{free / GIB:.1f} GiB of {int(sizes['MemTotal']) * 1024 / GIB:.1f} available, a run needs about {need / GIB:.1f}"
    if free < need:
        return Finding("memory", "warning", text, "close other programs, or take a smaller base")
    return Finding("memory", "ok", text)


def whole_model_bytes(weights: int, float32_bytes: int) -> int:
    """Bytes of the merged model as `gguf` runs it, from those of its 16-bit weights."""
    return 2 * weights if 2 * weights <= float32_bytes else weights


def check_gpus(params: dict[str, Any], weights: int) -> Iterable[Finding]:
    """NVIDIA GPUs with memory and driver, and whether the installed torch can use them."""
    fields = "name,memory.total,memory.free,driver_version"
    try:
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        rows = [line.split(", ") for line in result.stdout.splitlines() if line.count(", ") == fields.count(",")]
        reason = (
            (result.stdout + result.stderr).strip().partition("\n")[0]
            if result.returncode != 0
            else "nvidia-smi names none"
        )
    except (OSError, subprocess.TimeoutExpired):
        rows, reason = [], "no nvidia-smi here"
    if not rows:
        if param_value(params, "runtime", "device") == "cuda":
            yield Finding(
                "GPU",
                "problem",
                f"none ({reason}), and runtime.device is cuda",
                "`retune use --set runtime.device=auto` uses the CPU",
            )
        elif weights > GIB:
            yield Finding(
                "GPU",
                "warning",
                f"none ({reason}): training this base on the CPU takes days",
                "a dry run: `retune use --set fetch_data.limit=50`; the demo needs no GPU",
            )
        else:
            yield Finding("GPU", "ok", f"none ({reason}): the CPU does the work")
        return
    for name, total, free, driver in rows:
        yield check_gpu(name, total, free, driver, weights)


def check_gpu(name: str, total: str, free: str, driver: str, weights: int) -> Finding:
    """One GPU. QLoRA of a 3B took 2.9 GiB: the weights at 4 bits, and two for the rest."""
    text = f"{name}, {total} MiB ({free} free), driver {driver}"
    cuda = re.match(r"(\d+)\.", installed_version("nvidia-cuda-runtime") or "")
    oldest = OLDEST_DRIVER.get(int(cuda[1])) if cuda else None
    if oldest and driver.split(".", maxsplit=1)[0].isdecimal() and int(driver.split(".", maxsplit=1)[0]) < oldest:
        return Finding(
            "GPU",
            "problem",
            text,
            f"torch here is built for CUDA {cuda[1] if cuda else ''}, which needs driver {oldest} or newer",
        )
    need = weights / 3.5 + 2 * GIB
    if free.isdecimal() and int(free) * 2**20 < need:
        return Finding(
            "GPU",
            "warning",
            text,
            f"about {need / GIB:.1f} GiB are needed: smaller runtime.micro_batch, or end what else uses the GPU",
        )
    return Finding("GPU", "ok", text)


def check_write_access(root: Path) -> Finding:
    """Whether files can be made where the stages write."""
    for folder in (root, root / "data", root / ".dvc", root / ".retune"):
        if folder.is_dir():
            try:
                with tempfile.TemporaryFile(dir=folder):
                    pass
            except OSError as error:
                return Finding(
                    "write access",
                    "problem",
                    f"{folder.name or folder}/ cannot be written: {error.strerror}",
                    "change its owner or its mode, or free the disk",
                )
    return Finding("write access", "ok", "data/, .dvc/ and .retune/ can be written")
