import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import pytest

from stages.core.errors import StageError
from stages.llama_cpp.programs import (
    PROGRAMS,
    cache_folder,
    find_existing,
    find_or_build,
    list_lacking,
    read_build,
    read_percent,
    read_pinned_build,
    run_program,
)

VERSION = "version: 0.2.0-dev (build {build}, commit abc)"


def put_program(folder: Path, said: str, name: str = "llama-quantize") -> Path:
    """A program that says a version and does nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    (folder / name).chmod(0o755)
    return folder / name


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a shell and without llama.cpp, cmake or a compiler."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sh").symlink_to(shutil.which("sh") or "/bin/sh")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("LLAMA_CPP_DIR", "CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize("inside", ["", "bin", "build/bin"])
def test_program_in_llama_cpp_dir_is_taken_before_one_on_path(
    bare: Path, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    put_program(bare / "bin", VERSION.format(build=99999))
    named = put_program(bare / "named" / inside, VERSION.format(build=read_pinned_build()))
    assert find_existing("llama-quantize") == bare / "bin" / "llama-quantize"
    monkeypatch.setenv("LLAMA_CPP_DIR", str(bare / "named"))
    assert find_or_build("llama-quantize") == named


@pytest.mark.parametrize("said", [VERSION.format(build=10000), VERSION.format(build=0), "usage: ..."])
def test_program_that_is_old_or_names_no_build_is_refused_where_it_was_named_and_passed_over_on_path(
    bare: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, said: str
) -> None:
    put_program(bare / "bin", said)
    with caplog.at_level(logging.WARNING, "retune"):
        assert find_existing("llama-quantize") is None
    assert f"build {read_pinned_build()} or newer is needed" in caplog.text
    monkeypatch.setenv("LLAMA_CPP_DIR", str(bare / "bin"))
    with pytest.raises(StageError, match=f"in LLAMA_CPP_DIR is .*build {read_pinned_build()} or newer is needed"):
        find_existing("llama-quantize")


def test_built_program_counts_if_it_runs_and_is_of_the_pinned_build(bare: Path) -> None:
    assert str(cache_folder()).startswith(str(bare / "cache" / "retune" / f"llama.cpp-b{read_pinned_build()}-"))
    for said, found in ((VERSION.format(build=read_pinned_build()), True), ("no such library", False)):
        program = put_program(cache_folder(), said)
        assert find_existing("llama-quantize") == (program if found else None)


def test_find_without_anything_to_build_with_names_what_is_missing(bare: Path) -> None:
    assert not (bare / "cache").exists()
    with pytest.raises(
        StageError, match=r"cmake and ninja or make and a C compiler .* and a C\+\+ compiler .* are missing"
    ):
        find_or_build("llama-imatrix")
    assert not (bare / "cache").exists()


def test_lacking_names_the_part_that_is_not_there(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("make", "gcc", "c++"):
        put_program(bare / "bin", "", name)
    assert list_lacking() == ["cmake"]
    put_program(bare / "bin", "", "cmake")
    assert list_lacking() == []
    (bare / "bin" / "c++").unlink()
    monkeypatch.setenv("CXX", str(put_program(bare / "own", "", "my-compiler")))
    assert list_lacking() == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("[3/40] Building CXX object", 7),
        ("[  7%] Built target ggml", 7),
        ("[  20/ 291] blk.0.attn_k.weight - [2048], type = bf16, converting to q2_K .. ", 6),
        ("-- Configuring done", None),
        ("warning: [3/40]", None),
    ],
)
def test_percent_reads_ninja_make_and_llama_quantize(line: str, found: int | None) -> None:
    assert read_percent(line) == found


def test_command_that_fails_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('first'); print('last words'); raise SystemExit(7)"]
    with pytest.raises(StageError, match=r"(?s)it went wrong \(exit code 7\):.*last words"):
        run_program(command, tmp_path / "log", "doing", "it went wrong")
    assert "first" in (tmp_path / "log").read_text()


CHILDREN = """
import subprocess, sys, pathlib
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
print("[1/2] started", flush=True)
child.wait()
"""


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def test_command_that_is_interrupted_is_ended_with_what_it_started(tmp_path: Path) -> None:
    def press() -> None:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    Thread(target=press, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_program([sys.executable, "-c", CHILDREN, tmp_path / "pid"], tmp_path / "log", "doing", "it went wrong")
    finally:
        signal.signal(signal.SIGINT, before)
    until = time.monotonic() + 30
    while is_running(int((tmp_path / "pid").read_text())):
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.slow
def test_found_programs_run_and_are_new_enough() -> None:
    for name in PROGRAMS:
        program = find_or_build(name)
        assert (read_build(program) or 0) >= read_pinned_build()
        assert subprocess.run([program, "--help"], capture_output=True, check=False).stdout
