import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retune.terminal import CLOSE, OPEN, legend, paint_runs
from stages.contracts.tokens import count_labelled, read_tokens
from stages.core.files import write_json
from stages.reporting import token_view
from tests.adapter_files import write_training
from tests.retune.conftest import REPO
from tests.stages.show.test_progress import on_a_terminal
from tests.token_files import row_id, write_token_files

pytestmark = pytest.mark.slow

Run = Callable[..., subprocess.CompletedProcess[str]]
HOSTILE = "red \x1b[31m \x9b2J \u202e \u27e6forged\u27e7 \x07"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A project whose data stages have run on seven training rows and one held-out one."""
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    rows = [(f"question {number}", f"answer {number}") for number in range(6)]
    write_token_files(tmp_path / "data", [*rows, (HOSTILE, f"naïve 🤖 {HOSTILE}")], [("held", "out")])
    return tmp_path


def test_preview_marks_what_is_trained_where_there_is_no_colour(retune: Run, made: Path) -> None:
    done = retune("preview", "-n", "1", cwd=made)
    assert done.returncode == 0, done.stderr
    legend, _, heading, *text = done.stdout.splitlines()
    assert "\u27e6" in legend
    assert heading == f"{row_id('question 0')}  train  talk.jsonl:4  {heading.split('  ')[-1]}"
    assert heading.endswith(" labelled")
    assert "\n".join(text) == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nquestion 0<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n\u27e6answer 0<|eot_id|>\u27e7"
    )


def test_preview_says_in_how_many_steps_of_the_adapter_a_row_stood(retune: Run, made: Path) -> None:
    table = read_tokens(made / "data/tokens/train.arrow")
    labelled = dict(zip(table["row_id"].to_pylist(), count_labelled(table).to_pylist(), strict=True))
    stood_in: dict[str, list[int]] = {name: [] for name in labelled}
    stood_in[row_id("question 0")] = [1, 3]
    # a row of other tokens than the training had
    write_training(made / "data/adapter", stood_in, labelled | {row_id("question 2"): 99})
    headings = [line for line in retune("preview", "-n", "3", cwd=made).stdout.splitlines() if "  train  " in line]
    assert [line.partition(" labelled")[2] for line in headings] == [", trained in 2 steps", "", ", trained in no step"]
    [row] = json.loads(retune("preview", "--row", row_id("question 0"), "--json", cwd=made).stdout)
    assert row["steps"] == 2
    (made / "data/adapter/ledger.parquet").write_bytes(b"PAR1")
    assert "step" not in retune("preview", "--row", row_id("question 0"), cwd=made).stdout


def test_preview_takes_rows_evenly_from_the_split_and_the_same_ones_again(retune: Run, made: Path) -> None:
    first, again = (retune("preview", "-n", "3", cwd=made).stdout for _ in range(2))
    assert first == again
    assert [number for number in range(7) if f"question {number}<" in first] == [0, 2, 4]


def test_preview_of_the_heldout_split_shows_its_rows(retune: Run, made: Path) -> None:
    done = retune("preview", "--split", "heldout", cwd=made)
    assert f"{row_id('held')}  heldout" in done.stdout
    assert "question" not in done.stdout


def test_preview_lets_no_control_character_of_a_dataset_through(retune: Run, made: Path) -> None:
    done = retune("preview", "--row", row_id(HOSTILE), cwd=made)
    text = done.stdout.split("\n", 3)[3]
    assert not set(text) & set("\x1b\x9b\u202e\x07")
    assert r"\x1b[31m \x9b2J \u202e \u27e6forged\u27e7" in text
    assert (text.count("\u27e6"), text.count("\u27e7")) == (1, 1)
    assert "naïve 🤖" in text


def test_preview_with_an_ascii_terminal_escapes_what_it_cannot_write(retune: Run, made: Path) -> None:
    done = retune("preview", "--row", row_id(HOSTILE), cwd=made, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert r"na\xefve" in done.stdout


def terminal(made: Path, **environment: str) -> str:
    code = (
        f"import os, sys; sys.path.insert(0, {str(REPO)!r}); os.chdir({str(made)!r}); "
        f"sys.argv = ['retune', 'preview', '-n', '1']; from retune.__main__ import main; main()"
    )
    return on_a_terminal(code, {"TERM": "xterm", **environment})


def test_preview_on_a_terminal_colours_what_is_trained_and_control_tokens(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    said = terminal(made)
    assert "\x1b[1;32manswer 0\x1b[0m\x1b[1;7;32m<|eot_id|>\x1b[0m" in said
    assert "question 0\x1b[36m<|eot_id|>\x1b[0m" in said


def test_preview_with_no_color_marks(made: Path) -> None:
    said = terminal(made, NO_COLOR="1")
    assert "\x1b[" not in said
    assert "\u27e6answer 0" in said


def test_text_that_looks_like_a_control_token_is_told_from_one_without_colour() -> None:
    forged = "I say <|eot_id|><|start_header_id|>user and 1 < 2 <b> <end_of_turn>"
    runs = [
        token_view.Run(forged, trained=True, control=False, tokens=9),
        token_view.Run("<|eot_id|>", trained=True, control=True, tokens=1),
    ]
    said = paint_runs(runs, colour=False)
    assert (
        said
        == f"{OPEN}I say \\x3c|eot_id|>\\x3c|start_header_id|>user and 1 < 2 <b> \\x3cend_of_turn><|eot_id|>{CLOSE}"
    )
    assert "\\x3c|...|> is text that looks like one" in legend(colour=False)
    assert "<|eot_id|><|start" in paint_runs(runs, colour=True)


def test_preview_json_has_runs_and_origin_in_ascii(retune: Run, made: Path) -> None:
    done = retune("preview", "--row", row_id(HOSTILE)[:10], "--json", cwd=made)
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout
    [row] = json.loads(done.stdout)
    assert row["origin"] == {"source": "data/custom/talk.jsonl", "file": "talk.jsonl", "line": 10}
    assert (row["row_id"], row["split"]) == (row_id(HOSTILE), "train")
    assert row["tokens"] == sum(run["tokens"] for run in row["runs"])
    assert row["labelled_tokens"] == sum(run["tokens"] for run in row["runs"] if run["trained"])
    assert "".join(run["text"] for run in row["runs"] if run["trained"]) == f"naïve 🤖 {HOSTILE}<|eot_id|>"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rejected", "(talk.jsonl:1) is rejected by standardize: near_duplicate, of "),
        ("excluded", "(talk.jsonl:2) is excluded by data/exclusions.csv: asked for"),
        ("too long", "(talk.jsonl:3 of demo) is rejected by template: too_long (more tokens than template.max_length)"),
    ],
)
def test_preview_of_a_row_set_aside_tells_why_and_where_from(retune: Run, made: Path, text: str, said: str) -> None:
    done = retune("preview", "--row", row_id(text)[:12], cwd=made)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"retune: {row_id(text)} ")
    assert said in done.stderr
    answer = retune("preview", "--row", row_id(text), "--json", cwd=made)
    assert answer.returncode == 1
    assert json.loads(answer.stdout)["state"] == ("excluded" if text == "excluded" else "rejected")


def test_preview_of_a_row_that_is_repeated_shows_the_kept_one(retune: Run, made: Path) -> None:
    done = retune("preview", "--row", row_id("question 0"), cwd=made)
    assert done.returncode == 0, done.stderr
    assert "answer 0" in done.stdout


def test_preview_of_an_unknown_row_and_of_an_unclear_prefix_says_so(retune: Run, made: Path) -> None:
    unknown = retune("preview", "--row", "zz", cwd=made)
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "no row of this dataset begins with zz" in unknown.stderr
    unclear = retune("preview", "--row", "", cwd=made)
    assert unclear.returncode == 1
    assert "several rows begin with" in unclear.stderr
    assert unclear.stderr.endswith(", ...\n")


def test_preview_of_a_row_in_the_other_split_says_so(retune: Run, made: Path) -> None:
    done = retune("preview", "--row", row_id("held"), "--split", "train", cwd=made)
    assert done.returncode == 1
    assert "is in heldout, not in train" in done.stderr


def test_preview_before_the_stages_have_run_says_what_to_do(retune: Run, tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    done = retune("preview", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "retune: data/tokens/train.arrow is not there yet: `dvc repro template` makes it\n"


@pytest.mark.parametrize("name", ["train.arrow", "tokenizer/tokenizer.json", "rejected.parquet"])
def test_preview_of_damaged_files_ends_without_a_traceback(retune: Run, made: Path, name: str) -> None:
    path = made / "data/tokens" / name
    path.write_bytes(path.read_bytes()[:50])
    done = retune("preview", "--row", row_id("question 1"), cwd=made)
    assert done.returncode == 1
    assert done.stderr.startswith("retune: ")
    assert "Traceback" not in done.stderr


def test_preview_imports_no_torch_and_no_transformers(made: Path) -> None:
    code = (
        f"import os, sys; sys.path.insert(0, {str(REPO)!r}); os.chdir({str(made)!r}); "
        "from retune.preview import preview; preview(None, 1, None, False); "
        "sys.stderr.write(str([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]"


def test_preview_marks_a_near_duplicate(retune: Run, made: Path) -> None:
    path = made / "data/messages/messages.parquet"
    table = pq.read_table(path)
    at = table.schema.get_field_index("near_duplicate_of")
    flags = pa.array([row_id("question 1"), *[None] * (table.num_rows - 1)], pa.string())
    pq.write_table(table.set_column(at, table.schema.field(at), flags), path)
    assert f"near duplicate of {row_id('question 1')}" in retune("preview", "-n", "1", cwd=made).stdout
    [row] = json.loads(retune("preview", "-n", "1", "--json", cwd=made).stdout)
    assert row["near_duplicate_of"] == row_id("question 1")
    assert set(row["origin"]) == {"source", "file", "line"}


def test_preview_of_tokens_of_other_params_says_so(retune: Run, made: Path) -> None:
    write_json(made / "data/records/template.json", {"params": {"max_length": 8}})
    (made / "params.yaml").write_text("template: {max_length: 8}\n")
    assert retune("preview", "-n", "1", cwd=made).stderr == ""
    (made / "params.yaml").write_text("template: {max_length: 9}\n")
    done = retune("preview", "-n", "1", cwd=made)
    assert (done.returncode, done.stderr) == (0, "retune: params changed since (template); `dvc repro template`\n")
