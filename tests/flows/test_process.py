import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.process import LiveLines, StageOutcome, dvc_command, dvc_environment, failure_message, repro

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]
SLEEPER = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
Path("pids").write_text(f"{os.getpid()} {child.pid}")
time.sleep(600)
"""


def run_stage(root, stage):
    lines = []
    return repro(root, stage, lines.append), lines


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def sleeper_pids(root):
    wait_until(lambda: (root / "pids").exists() and len((root / "pids").read_text().split()) == 2)
    return [int(pid) for pid in (root / "pids").read_text().split()]


def test_stage_that_has_to_run_is_ran_and_its_lines_are_heard(toy):
    outcome, lines = run_stage(toy, "zeta")
    assert outcome == StageOutcome("Ran")
    assert "zeta: at work" in lines


def test_stage_with_nothing_to_do_is_cached(toy):
    run_stage(toy, "zeta")
    assert run_stage(toy, "zeta")[0] == StageOutcome("Cached")


def test_stage_that_ran_to_the_same_bytes_is_ran(toy):
    run_stage(toy, "zeta")
    (toy / "zeta.txt").write_text("# the lock changes, the output does not")
    assert run_stage(toy, "zeta")[0] == StageOutcome("Ran")


def test_stage_whose_outputs_come_from_the_cache_is_cached(toy):
    run_stage(toy, "zeta")
    (toy / "out/zeta").unlink()
    assert run_stage(toy, "zeta")[0] == StageOutcome("Cached")
    assert (toy / "out/zeta").read_text() == "zeta"


def test_stage_that_prints_dvc_words_is_still_ran(toy):
    (toy / "zeta.txt").write_text("print(\"Stage 'zeta' didn't change, skipping\", flush=True)")
    assert run_stage(toy, "zeta")[0] == StageOutcome("Ran")


def test_stage_alone_runs_no_other_stage(toy):
    run_stage(toy, "zeta")
    assert not (toy / "out/alpha").exists()


def test_failed_stage_gives_its_own_message_with_all_lines(toy):
    (toy / "zeta.txt").write_text(
        'print("zeta: a log line", flush=True)\n'
        'print("noise of a library", file=sys.stderr)\n'
        'sys.exit("zeta: two errors:\\n  lr: found x\\n  steps: found y")'
    )
    assert run_stage(toy, "zeta")[0] == StageOutcome("Failed", "two errors:\n  lr: found x\n  steps: found y")


def test_failed_stage_without_a_message_gives_the_end_of_its_traceback(toy):
    (toy / "zeta.txt").write_text("print('zeta: a log line', flush=True); 1 / 0")
    assert run_stage(toy, "zeta")[0] == StageOutcome("Failed", "ZeroDivisionError: division by zero")


def test_stage_killed_by_the_system_gives_the_signal(toy):
    (toy / "zeta.txt").write_text("print('zeta: a log line', flush=True); import os; os.kill(os.getpid(), 9)")
    outcome, _ = run_stage(toy, "zeta")
    assert outcome.state == "Failed"
    assert "killed: by hand, or because the memory was full" in outcome.message


def test_failure_of_dvc_itself_gives_its_words(toy):
    (toy / ".dvc/tmp/rwlock").write_text("")
    outcome, _ = run_stage(toy, "zeta")
    assert outcome.state == "Failed"
    assert "rwlock" in outcome.message


def test_failure_message_takes_the_traceback_that_came_after_a_message():
    errors = [
        "zeta: tried once",
        "Traceback (most recent call last):",
        '  File "x"',
        "OSError: disk full",
        "ERROR: failed",
    ]
    assert failure_message("zeta", errors, 1) == "OSError: disk full"


def test_lines_of_a_progress_bar_are_thinned_to_its_last_state():
    lines = LiveLines()
    assert lines.feed(b"a\rb\rc") == []
    assert lines.feed(b"\rd\ne") == ["d"]
    assert lines.feed(b"") == ["e"]


def test_lines_of_a_long_progress_bar_are_shown_now_and_then():
    lines = LiveLines()
    lines.shown -= 11
    assert lines.feed(b"1 %\r2 %\r") == ["2 %"]
    assert lines.feed(b"3 %\r") == []


def test_lines_cut_within_a_character_come_whole():
    lines = LiveLines()
    whole = "für\n".encode()
    assert lines.feed(whole[:2]) + lines.feed(whole[2:]) == ["für"]


def test_interrupted_caller_leaves_no_process_of_the_stage(toy):
    (toy / "zeta.txt").write_text(SLEEPER)
    pids = []

    def interrupt(line):
        if line == "zeta: at work":
            pids.extend(sleeper_pids(toy))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repro(toy, "zeta", interrupt)
    assert pids
    assert not any(map(alive, pids))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_caller_leaves_no_process_of_the_stage(toy, number):
    (toy / "zeta.txt").write_text(SLEEPER)
    code = f"from pathlib import Path; from flows.process import repro; repro(Path({str(toy)!r}), 'zeta', print)"
    caller = subprocess.Popen([sys.executable, "-c", code], cwd=REPO, stdout=subprocess.DEVNULL)
    pids = sleeper_pids(toy)
    caller.send_signal(number)
    caller.wait()
    wait_until(lambda: not any(map(alive, pids)), 15)


def test_stage_that_leaves_a_process_behind_is_not_waited_for(toy):
    (toy / "zeta.txt").write_text(
        "import subprocess; p = subprocess.Popen(['sleep', '600']); Path('pids').write_text(f'{p.pid} {p.pid}')"
    )
    assert run_stage(toy, "zeta")[0] == StageOutcome("Ran")
    assert not any(map(alive, sleeper_pids(toy)))


def test_repro_with_nothing_to_do_imports_nothing_of_ours(toy, run_dvc):
    for package in ("stages", "flows", "retune"):
        (toy / package).mkdir()
        (toy / package / "__init__.py").write_text("raise RuntimeError('imported')")
    run_dvc(toy, "repro")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *dvc_command("repro")[1:]],
        cwd=toy, env=dvc_environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "dvc" in imported
    assert not imported & {"stages", "flows", "retune", "prefect", "torch", "transformers"}
    assert "up to date" in done.stdout


def test_stage_finds_the_python_of_this_environment_when_nobody_activated_it(toy, monkeypatch):
    monkeypatch.setenv("PATH", os.defpath)
    (toy / "zeta.txt").write_text("Path('python').write_text(sys.prefix)")
    run_stage(toy, "zeta")
    assert (toy / "python").read_text() == sys.prefix
