import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.project import ROOT

RUNTIME = """
runtime: {device: cpu, workers: 1, processes: null, sharding: none, micro_batch: 2, memory_limit_gb: null, save_steps: null, report_to: none, gradient_checkpointing: 'off', evaluation_batch: 4, log_level: info}
"""
HEAD = """
from pathlib import Path
from typing import Annotated
from pydantic import Field
from stages.core.runner import Input, Inputs, Output, run
from stages.core.errors import Refusal, StageError
from stages.core.params import Params, Runtime

class CopyParams(Params):
    times: Annotated[int, Field(ge=1)]
    rate: float
"""


@pytest.fixture
def stage(tmp_path: Path):
    """Write a stage's body, run it as a command in a project of its own, and give back how it ended."""
    (tmp_path / "params.yaml").write_text("copy: {times: 2, rate: 2e-4}\n" + RUNTIME)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.txt").write_text("one")

    def run(body: str, *flags: str, project: Path = ROOT) -> subprocess.CompletedProcess[str]:
        body = textwrap.dedent(body)
        code = HEAD + body + ("" if "run(copy" in body else "\nrun(copy)\n")
        command = [sys.executable, "-c", code, "--source", "source", "--target", "target", *flags]
        return subprocess.run(
            command,
            cwd=tmp_path,
            env={"PYTHONPATH": str(project), "PATH": ""},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


COPY = """
def copy(source: Input, target: Output, params: CopyParams) -> None:
    '''Copy.'''
    target.mkdir()
    (target / "b.txt").write_text((source / "a.txt").read_text() * params.times)
"""


def test_run_puts_the_output_in_place_and_writes_the_record(stage, tmp_path: Path) -> None:
    ended = stage(COPY, "--record", "records/copy.json")
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "target" / "b.txt").read_text() == "oneone"
    record = json.loads((tmp_path / "records" / "copy.json").read_text())
    assert record["params"] == {"times": 2, "rate": 2e-4}
    assert record["inputs"]["source"]["path"] == "source"
    assert list(record["outputs"]["target"]["files"]) == ["b.txt"]


def test_run_twice_writes_the_same_record(stage, tmp_path: Path) -> None:
    stage(COPY, "--record", "records/copy.json")
    first = (tmp_path / "records" / "copy.json").read_bytes()
    stage(COPY, "--record", "records/copy.json")
    assert (tmp_path / "records" / "copy.json").read_bytes() == first


def test_run_replaces_an_older_output_whole(stage, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "old.txt").write_text("old")
    stage(COPY)
    assert [file.name for file in (tmp_path / "target").iterdir()] == ["b.txt"]


def test_run_stage_error_prints_its_message_alone_and_leaves_no_output(stage, tmp_path: Path) -> None:
    ended = stage("""
    def copy(source: Input, target: Output, params: CopyParams) -> None:
        target.mkdir()
        raise StageError("row 7 is broken; mend it")
    """)
    assert ended.returncode == 1
    assert ended.stderr == "copy: row 7 is broken; mend it\n"
    assert sorted(file.name for file in tmp_path.iterdir()) == [".retune", "params.yaml", "source"]


def test_run_refusal_keeps_the_output_and_fails(stage, tmp_path: Path) -> None:
    ended = stage("""
    def copy(source: Input, target: Output, params: CopyParams) -> None:
        target.write_text("no")
        raise Refusal("no")
    """)
    assert ended.returncode == 1
    assert (tmp_path / "target").read_text() == "no"


@pytest.mark.parametrize("change", ["write_text('two')", "rename('source/c.txt')", "unlink()"])
def test_run_input_changed_meanwhile_fails_and_certifies_nothing(stage, tmp_path: Path, change: str) -> None:
    ended = stage(f"""
    def copy(source: Input, target: Output, params: CopyParams) -> None:
        target.write_text("x")
        (source / "a.txt").{change}
    """)
    assert ended.returncode == 1
    assert "was changed while copy was reading it" in ended.stderr
    assert not (tmp_path / "target").exists()


def test_run_input_touched_but_equal_is_no_change(stage) -> None:
    ended = stage("""
    def copy(source: Input, target: Output, params: CopyParams) -> None:
        target.write_text("x")
        (source / "a.txt").write_text("one")
    """)
    assert ended.returncode == 0, ended.stderr


def test_run_missing_input_says_what_makes_it(stage, tmp_path: Path) -> None:
    (tmp_path / "source" / "a.txt").unlink()
    (tmp_path / "source").rmdir()
    ended = stage(COPY)
    assert ended.returncode == 1
    assert "--source source does not exist; `dvc repro copy`" in ended.stderr


def test_run_wrong_params_says_all_of_them(stage, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("copy: {times: 0, rate: fast, extra: 1}\n" + RUNTIME)
    ended = stage(COPY)
    assert ended.returncode == 1
    assert "copy.times: should be greater than or equal to 1 (found 0)" in ended.stderr
    assert "copy.rate: should be a valid number (found 'fast')" in ended.stderr
    assert "copy.extra: unknown key" in ended.stderr
    assert not (tmp_path / "target").exists()


def test_run_own_code_changed_meanwhile_fails_and_certifies_nothing(stage, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    ended = stage(
        """
    def copy(source: Input, target: Output, params: CopyParams) -> None:
        target.write_text("x")
        Path("stages/core/errors.py").write_text("# edited\\n")
    """,
        project=tmp_path,
    )
    assert ended.returncode == 1
    assert "stages/core/errors.py was changed while copy was reading it" in ended.stderr
    assert not (tmp_path / "target").exists()
    kept = [file.read_text() for file in (tmp_path / ".retune" / "code").glob("*.py")]
    assert (ROOT / "stages/core/errors.py").read_text() in kept


FAILS = """
def copy(source: Input, target: Output, params: CopyParams) -> None:
    raise StageError("row 7 is broken")
"""
LOCK = "schema: '2.0'\nstages:\n  copy:\n    outs:\n    - {path: target, hash: md5, md5: 0123456789abcdef.dir}\n"
HINT = (
    "The last good files of this stage, made of the data and params of then, are in the cache: `retune restore copy`\n"
)


def test_run_stage_error_names_restore_only_where_there_is_something_to_restore(stage, tmp_path: Path) -> None:
    assert HINT not in stage(FAILS).stderr
    (tmp_path / "dvc.lock").write_text(LOCK)
    assert HINT not in stage(FAILS).stderr, "the cache does not have it"
    cached = tmp_path / ".dvc/cache/files/md5/01/23456789abcdef.dir"
    cached.parent.mkdir(parents=True)
    cached.write_text("[]")
    assert stage(FAILS).stderr == f"copy: row 7 is broken\n{HINT}"
    (tmp_path / "target").mkdir()
    assert HINT not in stage(FAILS).stderr, "nothing is gone"


def test_run_stage_error_is_told_whatever_dvc_lock_holds(stage, tmp_path: Path) -> None:
    (tmp_path / "dvc.lock").write_text("{ : broken")
    assert stage(FAILS).stderr == "copy: row 7 is broken\n"


CHOSEN = """
def copy(source: Input, target: Output, params: CopyParams) -> None:
    target.mkdir()
    (target / "b.txt").write_text((source / "a.txt").read_text() * params.times)

run(copy, lambda params, inputs: {"source": [NAMES]})
"""


def test_run_what_the_params_do_not_ask_for_is_in_no_record_and_may_change(stage, tmp_path: Path) -> None:
    def record() -> bytes:
        body = (
            CHOSEN.replace("NAMES", '"a.txt", "folder"') + "(Path('source') / 'stray.txt').write_text('while it ran')\n"
        )
        ended = stage(
            body.replace("    target.mkdir()\n", "    target.mkdir()\n    (source / 'late.txt').write_text('x')\n"),
            "--record",
            "r.json",
        )
        assert ended.returncode == 0, ended.stderr
        return (tmp_path / "r.json").read_bytes()

    (tmp_path / "source" / "folder").mkdir()
    (tmp_path / "source" / "folder" / "c.txt").write_text("c")
    before = record()
    (tmp_path / "source" / "notes.txt").write_text("of no use")
    (tmp_path / "source" / "folder" / ".gitkeep").write_text("")
    assert record() == before
    read = json.loads(before)["inputs"]["source"]
    assert list(read["files"]) == ["a.txt", "folder/c.txt"]
    (tmp_path / "source" / "folder" / "d.txt").write_text("d")
    assert record() != before


@pytest.mark.parametrize(
    "change", ["(source / 'a.txt').write_text('two')", "(source / 'folder' / 'new').write_text('x')"]
)
def test_run_what_the_params_ask_for_changed_meanwhile_fails(stage, tmp_path: Path, change: str) -> None:
    (tmp_path / "source" / "folder").mkdir()
    ended = stage(CHOSEN.replace("NAMES", '"a.txt", "folder"').replace("target.mkdir()", f"target.mkdir(); {change}"))
    assert ended.returncode == 1
    assert "source was changed while copy was reading it" in ended.stderr
    assert not (tmp_path / "target").exists()


def test_run_an_input_that_is_not_read_is_the_same_whatever_it_holds(stage, tmp_path: Path) -> None:
    body = """
    def copy(source: Input, target: Output, params: CopyParams) -> None:
        target.write_text("x")

    run(copy, lambda params, inputs: {"source": []})
    """
    stage(body, "--record", "r.json")
    before = (tmp_path / "r.json").read_bytes()
    (tmp_path / "source" / "a.txt").write_text("another")
    stage(body, "--record", "r.json")
    assert (tmp_path / "r.json").read_bytes() == before
    assert json.loads(before)["inputs"]["source"]["files"] == {}


def test_run_a_stage_s_last_act_comes_when_the_outputs_and_the_record_are_there(stage, tmp_path: Path) -> None:
    body = """
    def copy(source: Input, target: Output, params: CopyParams):
        target.write_text("x")
        def finish() -> None:
            Path("seen").write_text(f"{Path('target').exists()} {Path('r.json').exists()} {target.exists()}")
        return finish
    """
    ended = stage(body, "--record", "r.json")
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "seen").read_text() == "True True False"
    (tmp_path / "seen").unlink()
    (tmp_path / "r.json").unlink()
    (tmp_path / "target").unlink()
    ended = stage(body.replace("return finish", "(source / 'a.txt').write_text('two'); return finish"))
    assert ended.returncode == 1
    assert not (tmp_path / "seen").exists(), "what a stopped run would go on from must stay"


WAITS = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in a shell's background it is ignored
def wait() -> None:
    Path("started").write_text("")
    time.sleep(20)

def copy(source: Input, target: Output, params: CopyParams) -> None:
    target.mkdir()
    (target / "half").write_text("half")
    WHERE
run(copy)
"""


PRESSED = {
    "anywhere": "wait()",
    "in a library that makes an error of it": """try:
        wait()
    except KeyboardInterrupt:
        raise RuntimeError('a library, of the interrupt') from None""",
    "and a stage that cleans up": """try:
        wait()
    except KeyboardInterrupt:
        time.sleep(1)
        Path('cleaned').write_text('')
        raise""",
    "in a destructor, which swallows it": """class Thing:
        def __del__(self):
            wait()
    Thing()
    wait()""",
}


@pytest.mark.parametrize("where", PRESSED)
def test_run_interrupted_says_one_line_and_leaves_nothing(tmp_path: Path, where: str) -> None:
    (tmp_path / "params.yaml").write_text("copy: {times: 2, rate: 2e-4}\n" + RUNTIME)
    (tmp_path / "source").mkdir()
    (tmp_path / "dvc.lock").write_text(LOCK)
    cached = tmp_path / ".dvc/cache/files/md5/01/23456789abcdef.dir"
    cached.parent.mkdir(parents=True)
    cached.write_text("[]")
    code = HEAD + WAITS.replace("WHERE", PRESSED[where])
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--source", "source", "--target", "target"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 60
    while not (tmp_path / "started").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGINT) if process.poll() is None else None  # as an impatient hand does
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert (tmp_path / "cleaned").exists() == ("cleans up" in where)
    assert said == f"copy: interrupted; nothing half-written is left, and `dvc repro` begins this stage again\n{HINT}"
    assert (
        sorted(file.name for file in tmp_path.iterdir() if file.name.endswith("partial") or file.name == "target") == []
    )


JOIN = """
def copy(source: Input, parts: Inputs, target: Output, params: CopyParams) -> None:
    '''Join.'''
    target.write_text("".join(f"{name}={part.read_text()} " for name, part in parts.items()))
"""


def test_run_all_other_flags_are_given_by_their_names_and_recorded_each(stage, tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("b")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "c.txt").write_text("c")
    ended = stage(JOIN, "--c", "folder/c.txt", "--record", "records/copy.json", "--b", "b.txt")
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "target").read_text() == "c=c b=b "
    read = json.loads((tmp_path / "records" / "copy.json").read_text())["inputs"]
    assert {key: one["path"] for key, one in read.items()} == {
        "source": "source",
        "c": "folder/c.txt",
        "b": "b.txt",
    }
    assert read["c"]["sha256"] != read["b"]["sha256"]


def test_run_one_of_the_other_flags_that_is_missing_or_has_no_path_is_said(stage) -> None:
    ended = stage(JOIN, "--b", "b.txt")
    assert ended.returncode == 1
    assert "--b b.txt does not exist" in ended.stderr
    ended = stage(JOIN, "--b")
    assert ended.returncode == 2
    assert "argument --b: expected one argument" in ended.stderr


def test_run_other_flags_are_refused_by_a_stage_that_asks_for_none(stage) -> None:
    ended = stage(COPY, "--b", "source/a.txt")
    assert ended.returncode == 2
    assert "unrecognized arguments: --b source/a.txt" in ended.stderr


def test_run_one_of_the_other_flags_that_is_changed_meanwhile_fails(stage, tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("b")
    ended = stage(JOIN + '    parts["b"].write_text("other")\n', "--b", "b.txt")
    assert ended.returncode == 1
    assert "b.txt was changed while copy was reading it" in ended.stderr


def edits_params(how: str) -> str:
    """A stage that does its work and edits params.yaml meanwhile."""
    return f"""
    import re
    def copy(source: Input, target: Output, params: CopyParams) -> None:
        target.write_text(str(params.rate))
        file = Path("params.yaml")
        text = file.read_text()
        {how}
    """


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("file.write_text(text.replace('2e-4', '0.0001'))", "copy.rate: 0.0002 when it began, 0.0001 now"),
        ("file.write_text(text.replace('times: 2', 'times: many'))", 'copy.times: 2 when it began, "many" now'),
        ("file.write_text(text.replace('times: 2', 'times: 2, more: 1'))", "copy.more: nothing when it began, 1 now"),
        (
            "file.write_text(text.replace('copy:', 'copied:'))",
            "the section `copy`, which was there when it began, is gone",
        ),
        ("file.write_text('copy: {times')", "params.yaml cannot be read any more: params.yaml is not valid YAML"),
        ("file.write_text('')", "params.yaml cannot be read any more: params.yaml must hold one mapping"),
        ("file.write_bytes(bytes([255]))", "params.yaml cannot be read any more: params.yaml is not valid YAML"),
        ("file.unlink()", "params.yaml cannot be read any more: params.yaml is missing here"),
        ("file.unlink(); file.mkdir()", "params.yaml cannot be read any more:"),
    ],
)
def test_run_own_params_edited_meanwhile_fails_names_the_field_and_certifies_nothing(
    stage, tmp_path: Path, how: str, said: str
) -> None:
    ended = stage(edits_params(how), "--record", "records/copy.json")
    assert ended.returncode == 1
    assert "copy: params.yaml was edited while copy was at work" in ended.stderr
    assert said in ended.stderr
    assert "put back what was there, and `dvc repro` makes that." in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "checkpoint" not in ended.stderr
    assert not (tmp_path / "target").exists()
    assert not (tmp_path / "records" / "copy.json").exists()
    assert not list(tmp_path.glob(".*.partial"))


@pytest.mark.parametrize(
    "how",
    [
        "file.write_text('# a note' + chr(10) + text + chr(10) + 'train: {steps: 5}')",
        "file.write_text(text.replace('2e-4', '0.00020').replace('times: 2', 'times:   2'))",
        "file.write_text(text.replace('workers: 1', 'workers: 3'))",
        "file.write_text(re.sub('runtime.*', '', text))",
    ],
)
def test_run_a_comment_another_section_or_runtime_edited_meanwhile_costs_nothing(
    stage, tmp_path: Path, how: str
) -> None:
    ended = stage(edits_params(how), "--record", "records/copy.json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads((tmp_path / "records" / "copy.json").read_text())["params"] == {"times": 2, "rate": 2e-4}


def test_run_params_edited_meanwhile_keep_what_a_stopped_run_goes_on_from(stage, tmp_path: Path) -> None:
    ended = stage("""
    def copy(source: Input, target: Output, params: CopyParams):
        target.write_text("x")
        Path("checkpoint").write_text("step 7")
        Path("params.yaml").write_text(Path("params.yaml").read_text().replace("2e-4", "1e-4"))
        return lambda: Path("checkpoint").unlink()
    """)
    assert ended.returncode == 1
    assert "makes that and goes on from its last checkpoint, if it has written one" in ended.stderr
    assert (tmp_path / "checkpoint").read_text() == "step 7"


def test_run_a_stage_that_fails_on_what_is_changed_meanwhile_says_that_and_has_no_traceback(stage) -> None:
    ended = stage("""
    def copy(source: Input, target: Output, params: CopyParams) -> None:
        (source / "a.txt").unlink()
        target.write_text((source / "a.txt").read_text())
    """)
    assert ended.returncode == 1
    assert "source was changed while copy was reading it" in ended.stderr
    assert "copy: source" in ended.stderr
    broken = stage("""
    def copy(source: Input, target: Output, params: CopyParams) -> None:
        raise ZeroDivisionError
    """)
    assert "Traceback" in broken.stderr, "what fails for another reason is a bug"


LAZY = """
import sys
def copy(source: Input, target: Output, params: CopyParams) -> None:
    target.write_text("x")
    EDIT
    IMPORT
"""


@pytest.mark.parametrize(
    ("edit", "late", "changed"),
    [
        ("stages/arrow/row_groups.py", "import stages.arrow.row_groups", True),
        ("stages/arrow/row_groups.py", "", False),
        ("stages/chat/templates/plain.jinja", "import stages.chat.template_words", True),
        ("stages/chat/templates/plain.jinja", "", False),
        ("stages/environment/data.txt", "", True),
        ("stages/environment/train.txt", "", False),
    ],
)
def test_run_code_that_it_imports_late_or_reads_beside_its_code_changed_meanwhile_fails(
    stage, tmp_path: Path, edit: str, late: str, changed: bool
) -> None:
    shutil.copytree(ROOT / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    body = LAZY.replace("EDIT", f"file = Path('{edit}'); file.write_text(file.read_text() + chr(10))")
    ended = stage(body.replace("IMPORT", late), "--environment", "stages/environment/data.txt", project=tmp_path)
    assert ended.returncode == (1 if changed else 0), ended.stderr
    assert (f"{edit} was changed while copy was reading it" in ended.stderr) == changed


def test_run_code_that_is_gone_at_the_end_is_said(stage, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    body = LAZY.replace("EDIT", "Path('stages/core/errors.py').unlink()").replace("IMPORT", "pass")
    ended = stage(body, "--record", "r.json", project=tmp_path)
    assert ended.returncode == 1
    assert "copy: stages/core/errors.py was changed while copy was reading it" in ended.stderr


CHECKS = """
from stages.core.runner import Sections
def copy(source: Sections, target: Output) -> None:
    target.write_text(str(sorted(source)))
    file = Path("params.yaml")
    file.write_text(file.read_text().replace(*EDIT))
"""


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ("('2e-4', '1e-4')", "copy.rate: 0.0002 when it began, 0.0001 now"),
        ("('copy:', '# a note' + chr(10) + 'copy:')", ""),
        ("('workers: 1', 'workers: 2')", ""),
    ],
)
def test_run_a_stage_of_all_sections_is_held_to_their_values(stage, tmp_path: Path, edit: str, said: str) -> None:
    ended = stage(CHECKS.replace("EDIT", edit), "--source", "params.yaml")
    assert ended.returncode == (1 if said else 0), ended.stderr
    assert said in ended.stderr
    assert (tmp_path / "target").exists() == (not said)
