import logging
import re
import subprocess
import sys
import threading
import time

import pytest

from stages.show import progress as module
from stages.show.progress import duration, progress, told
from tests.project import ROOT
from tests.stages.show.support.terminal import on_a_terminal

LOOP = """
import logging, sys, threading, time
logging.basicConfig(level="INFO", format="stage: %(message)s", stream=sys.stdout)
from stages.show import progress as module
module.QUIET = 0.3
with module.progress("tokenizing", 20_000) as advance:
    for step in range(20):
        time.sleep(0.05)
        advance(1_000)
        threads = threading.active_count()
        if step == 12:
            logging.getLogger("retune").warning("a word in between")
print("threads", threads)
"""


def test_progress_on_a_terminal_is_a_live_line_that_goes() -> None:
    got = on_a_terminal(LOOP, {"TERM": "xterm"})
    assert "of 20,000 rows (" in got
    assert "rows/s" in got
    assert " left" in got
    assert "\x1b[2Kthreads 1" in got, "the line is wiped before what comes next, and no thread was needed"


def test_progress_on_a_narrow_terminal_shows_note_and_figures_on_two_lines() -> None:
    noted = LOOP.replace("advance(1_000)", "advance(1_000, lambda: f'step {step} of 20, loss 1.2345, held-out 1.3012')")
    got = on_a_terminal(noted, {"TERM": "xterm", "COLUMNS": "80"})
    words = " ".join(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", got).split())
    assert re.search(r"step 1\d of 20, loss", words)
    assert "held-out 1.3012" in words
    assert re.search(r"\d s left", words)


def test_progress_log_lines_meanwhile_stand_on_lines_of_their_own() -> None:
    lines = on_a_terminal(LOOP, {"TERM": "xterm"}).replace("\r\n", "\n").split("\n")
    assert any(line.replace("\r", "").endswith("\x1b[2Kstage: a word in between") for line in lines)


def test_progress_on_a_dumb_terminal_draws_nothing() -> None:
    assert on_a_terminal(LOOP, {"TERM": "dumb"}).split("\r\n")[:2] == ["stage: a word in between", "threads 1"]


def test_progress_without_a_terminal_is_a_line_in_the_log_now_and_then(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LINE_EVERY", 0.1)
    with caplog.at_level(logging.INFO, "retune"), progress("tokenizing", 1_000) as advance:
        for _ in range(10):
            time.sleep(0.03)
            advance(50)
    assert 1 <= len(caplog.messages) <= 4
    assert caplog.messages[0].startswith("tokenizing: ")
    assert " of 1,000 rows (" in caplog.messages[0]
    assert capfd.readouterr() == ("", "")


def test_progress_that_goes_on_counts_what_was_done_before_but_not_in_its_speed(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LINE_EVERY", 0.1)
    with caplog.at_level(logging.INFO, "retune"), progress("training", 1_000, "tokens") as advance:
        advance(500, earlier=True)
        time.sleep(0.15)
        advance(5, lambda: "step 6 of 10")
    assert re.match(
        r"training: step 6 of 10; 505 of 1,000 tokens \(50%\), [123]\d tokens/s, \d\d s left", caplog.messages[0]
    )


def test_progress_of_a_short_loop_says_nothing(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    threads = threading.active_count()
    with caplog.at_level(logging.INFO, "retune"), progress("tokenizing") as advance:
        advance(1_000)
        assert threading.active_count() == threads
    assert (caplog.messages, capfd.readouterr()) == ([], ("", ""))


def test_progress_passes_an_error_on() -> None:
    with pytest.raises(ZeroDivisionError), progress("tokenizing", 10) as advance:
        advance(1 // 0)


def test_progress_import_brings_neither_rich_nor_torch() -> None:
    code = "import sys, stages.show.progress; print([name for name in ('rich', 'torch') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("done", "total", "seconds", "said"),
    [
        (12_000, 40_000, 3.0, "12,000 of 40,000 rows (30%), 4,000 rows/s, 7 s left"),
        (12_000, None, 3.0, "12,000 rows, 4,000 rows/s"),
        (50_000, 40_000, 5.0, "50,000 rows, 10,000 rows/s"),  # the total was an estimate
        (3, 100, 4.0, "3 of 100 rows (3%), 0.8 rows/s, 2 min 9 s left"),
        (0, 100, 4.0, "0 of 100 rows (0%), 0 rows/s"),
        (0, 0, 4.0, "0 of 0 rows (100%), 0 rows/s"),
    ],
)
def test_told_says_what_is_known(done: int, total: int | None, seconds: float, said: str) -> None:
    assert told(done, total, seconds, "rows") == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3599.7, "1 h 0 min"), (11_520, "3 h 12 min")],
)
def test_duration_is_said_as_people_do(seconds: float, said: str) -> None:
    assert duration(seconds) == said
