import json
import shutil
import subprocess

import pytest

from retune.accept.command import record
from retune.accept.judge import Verdict, judge, judge_params
from retune.accept.same_code import whole_use
from stages.core.project_code import keep_code
from tests.project import ROOT

pytestmark = pytest.mark.slow

LOOSE = 'params.__dict__.update(YAML().load(Path("params.yaml"))["words"])'
PLAIN = 'params.least = YAML().load(Path("params.yaml"))["words"]["least"]'
WORDS = {"stages/words.py": "modified"}
LETTERS = {"stages/letters.py": "modified"}
SECTION = {"params.yaml": {"words": "modified"}}


def edit(root, name, old, new):
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new))


def status(run_dvc, root):
    return json.loads(run_dvc(root, "status", "--json"))


def reasons(root, deps):
    """What judge has against a stage whose deps have changed, as `dvc status` would say it."""
    return " ".join(judge(root, "words", [{"changed deps": deps}]).reasons)


def add_param(root, value):
    """A new param, with the code that reads it."""
    edit(root, "stages/words.py", "    least: int\n", "    least: int\n    most: int | None\n")
    edit(
        root,
        "stages/words.py",
        "    return [soften",
        "    if params.most is not None:\n        found = shorter(found, params.most)\n    return [soften",
    )
    shorter = "def shorter(found: list[str], most: int) -> list[str]:\n    return [word for word in found if len(word) <= most]"
    edit(root, "stages/words.py", "class WordsParams", f"{shorter}\n\n\nclass WordsParams")
    edit(root, "params.yaml", "least: 2", f"least: 2\n  most: {value}")


def test_accept_of_changed_docstrings_leaves_nothing_to_run(toy, retune, run_dvc):
    edit(toy, "stages/words.py", '"""The words."""', '"""The words of a text, in lower case."""')
    edit(toy, "stages/letters.py", '"""Letters."""', "# letters")
    assert "words" in status(run_dvc, toy)
    before = (toy / "out/words").stat().st_mtime_ns
    done = retune("accept", "words", cwd=toy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert status(run_dvc, toy) == {}
    assert (toy / "out/words").stat().st_mtime_ns == before
    assert "up to date" in run_dvc(toy, "repro")
    done = retune("accept", "words", cwd=toy)
    assert done.returncode == 0
    assert "nothing has changed" in done.stdout


def test_accept_without_a_stage_takes_the_harmless_and_refuses_the_others(toy, retune, run_dvc):
    edit(toy, "stages/words.py", "# long ones", "# the long ones")
    (toy / "out/count").write_text("forged")
    done = retune("accept", "--json", cwd=toy)
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert answer["words"]["accepted"]
    assert not answer["count"]["accepted"]
    assert set(status(run_dvc, toy)) == {"count"}


def test_accept_that_refuses_leaves_the_lock_alone(toy, retune):
    before = (toy / "dvc.lock").read_bytes()
    edit(toy, "stages/words.py", '"""The words."""', '"""Words."""')
    edit(toy, "stages/letters.py", "word.lower()", "word.upper()")
    done = retune("accept", "words", cwd=toy)
    assert done.returncode == 1
    assert "`lower` (line 4)" in done.stdout
    assert (toy / "dvc.lock").read_bytes() == before


def test_accept_twice_compares_with_the_text_that_was_accepted(toy, retune, run_dvc):
    edit(toy, "stages/words.py", "# long ones", "# the long ones")
    assert retune("accept", "words", cwd=toy).returncode == 0
    edit(toy, "stages/words.py", "# the long ones", "# only the long ones")
    assert retune("accept", "words", cwd=toy).returncode == 0
    assert status(run_dvc, toy) == {}


def test_accept_of_a_new_param_that_is_switched_off_leaves_nothing_to_run(toy, retune, run_dvc):
    edit(toy, "stages/words.py", LOOSE, PLAIN)
    subprocess.run(["git", "add", "stages"], cwd=toy, check=True)
    run_dvc(toy, "repro")
    add_param(toy, "null")
    done = retune("accept", "words", cwd=toy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "words.most is new and changes nothing at None" in done.stdout
    assert status(run_dvc, toy) == {}


def test_accept_of_an_unknown_stage_ends_with_dvc_words(toy, retune):
    done = retune("accept", "wrods", cwd=toy)
    assert done.returncode == 1
    assert "wrods" in done.stderr


def test_a_param_that_is_switched_on_is_a_reason(toy):
    add_param(toy, "3")
    assert "is not the code that ran" in reasons(toy, WORDS | SECTION)


def test_a_param_where_params_are_read_as_a_whole_is_a_reason(toy):
    add_param(toy, "null")
    assert reasons(toy, WORDS | SECTION).startswith("stages/words.py, line 30: reads its params as a whole")


def test_changed_code_is_a_reason_with_the_function(toy):
    edit(toy, "stages/letters.py", "word.lower()", "word.upper()")
    assert reasons(toy, LETTERS) == "stages/letters.py: `lower` (line 4) is not the code that ran"


def test_changed_data_is_a_reason(toy):
    edit(toy, "text.txt", "Red", "blue")
    assert "text.txt changed, and it is no Python file" in reasons(toy, {"text.txt": "modified"})


@pytest.mark.parametrize("value", ["3", "'2'", "2.0", "null", "[2]"])
def test_another_value_is_a_reason(toy, value):
    edit(toy, "params.yaml", "least: 2", f"least: {value}")
    assert "words.least was 2 and is" in reasons(toy, SECTION)


def test_a_param_that_is_gone_is_a_reason(toy):
    (toy / "params.yaml").write_text("words: {}\n")
    assert "words.least is gone" in reasons(toy, SECTION)


@pytest.mark.parametrize("state", ["new", "deleted"])
def test_a_dependency_that_came_or_went_is_a_reason(toy, state):
    assert f"stages/letters.py is {state}" in reasons(toy, {"stages/letters.py": state})


def test_a_changed_command_is_a_reason(toy):
    assert "command" in " ".join(judge(toy, "words", ["changed command"]).reasons)


def test_a_changed_output_is_a_reason(toy):
    changes = [{"changed deps": WORDS}, {"changed outs": {"out/words": "modified"}}]
    assert "its output out/words is modified" in " ".join(judge(toy, "words", changes).reasons)


def test_a_stage_that_never_ran_has_a_reason(toy):
    (toy / "dvc.lock").unlink()
    assert reasons(toy, WORDS) == "it has not run yet"


def test_a_text_that_is_nowhere_is_a_reason_until_it_is_found(toy, run_dvc):
    edit(toy, "stages/words.py", "# long ones", "# never committed")
    ran = (toy / "stages/words.py").read_text()
    run_dvc(toy, "repro")
    edit(toy, "stages/words.py", "# never committed", "# the long ones")
    assert "neither in git's history nor in .retune/code" in reasons(toy, WORDS)
    (toy / ".retune/code").mkdir(parents=True)
    (toy / ".retune/code/1.py").write_text(ran)
    assert reasons(toy, WORDS) == ""


def test_a_text_of_an_older_commit_is_found(toy):
    ran = (toy / "stages/words.py").read_text()
    for text in (ran + "x = 1\n", ran + "x = 2\n"):
        (toy / "stages/words.py").write_text(text)
        subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qam", "later"], cwd=toy, check=True
        )
    (toy / "stages/words.py").write_text(ran.replace("# long ones", ""))
    assert reasons(toy, WORDS) == ""


def test_bytes_that_changed_while_they_were_compared_are_not_recorded(toy):
    edit(toy, "stages/words.py", "# long ones", "# the long ones")
    verdict = judge(toy, "words", [{"changed deps": WORDS}])
    edit(toy, "stages/words.py", "params.least]", "0]")
    before = (toy / "dvc.lock").read_bytes()
    assert "stages/words.py changed while it was compared" in " ".join(record(toy, "words", verdict))
    assert (toy / "dvc.lock").read_bytes() == before


PARTS = {"stages/parts": "modified"}


def test_accept_of_docstrings_in_a_package_leaves_nothing_to_run(toy, retune, run_dvc):
    edit(toy, "stages/parts/tone.py", '"""A word without its marks."""', '"""A word, softened."""')
    edit(toy, "stages/parts/__init__.py", "Parts.", "What words are made of.")
    done = retune("accept", "words", cwd=toy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "stages/parts/tone.py: the same code but for comments and docstrings" in done.stdout
    assert status(run_dvc, toy) == {}
    # once more: what is compared with now is nowhere but in .retune/code
    edit(toy, "stages/parts/tone.py", '"""A word, softened."""', "# softened")
    done = retune("accept", "words", cwd=toy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert status(run_dvc, toy) == {}


def test_accept_compares_a_package_with_what_the_stage_kept_of_it(toy, run_dvc, monkeypatch):
    edit(toy, "stages/parts/tone.py", '"!?"', '"!?."')
    monkeypatch.chdir(toy)
    run_dvc(toy, "repro")
    keep_code()
    edit(toy, "stages/parts/tone.py", '"""Tone."""', "# never committed")
    assert reasons(toy, PARTS) == ""
    shutil.rmtree(toy / ".retune/code/listings")
    assert "stages/parts: what it held when it ran (md5 " in reasons(toy, PARTS)


def test_changed_code_in_a_package_is_a_reason_with_the_function(toy):
    edit(toy, "stages/parts/tone.py", '"!?"', '"!"')
    assert reasons(toy, PARTS) == "stages/parts/tone.py: `soften` (line 4) is not the code that ran"


def test_a_file_in_a_package_that_is_no_python_is_a_reason(toy):
    edit(toy, "stages/parts/deep/page.jinja", "words", "letters")
    assert "stages/parts/deep/page.jinja changed, and it is no Python file" in reasons(toy, PARTS)


@pytest.mark.parametrize(("name", "state"), [("stages/parts/tone.py", "deleted"), ("stages/parts/more.py", "new")])
def test_a_file_that_came_to_or_went_from_a_package_is_a_reason(toy, name, state):
    if state == "new":
        (toy / name).write_text('"""Nothing."""\n')
    else:
        (toy / name).unlink()
    assert reasons(toy, PARTS) == f"{name} is {state}: only an edit of a file that was there can be compared"


def test_what_dvc_does_not_see_in_a_package_is_no_change(toy):
    edit(toy, "stages/parts/tone.py", '"""Tone."""', "# tone")
    (toy / "stages/parts/.tone.py.swp").write_text("an editor's")
    (toy / "stages/parts/__pycache__").mkdir(exist_ok=True)
    (toy / "stages/parts/__pycache__/gone.pyc").write_text("compiled")
    assert reasons(toy, PARTS) == ""


def test_a_new_param_that_a_package_reads_as_a_whole_is_a_reason(toy, run_dvc):
    edit(toy, "stages/words.py", LOOSE, PLAIN)
    edit(
        toy,
        "stages/parts/tone.py",
        "    return word",
        "    params = {}\n    vars(params) if word is None else None\n    return word",
    )
    subprocess.run(["git", "add", "stages"], cwd=toy, check=True)
    run_dvc(toy, "repro")
    add_param(toy, "null")
    assert reasons(toy, WORDS | SECTION).startswith("stages/parts/tone.py, line 7: reads its params as a whole")


def test_core_whose_record_has_all_params_is_not_taken_for_a_stage_that_reads_them_as_a_whole():
    files = sorted((ROOT / "stages/core").glob("*.py"))
    assert files
    assert [file.name for file in files if whole_use(file.read_bytes()) is not None] == []


def test_a_package_that_changed_while_it_was_compared_is_not_recorded(toy):
    edit(toy, "stages/parts/tone.py", '"""Tone."""', "# tone")
    verdict = judge(toy, "words", [{"changed deps": PARTS}])
    edit(toy, "stages/parts/tone.py", '"!?"', '"!"')
    before = (toy / "dvc.lock").read_bytes()
    assert "stages/parts changed while it was compared" in " ".join(record(toy, "words", verdict))
    assert (toy / "dvc.lock").read_bytes() == before


@pytest.mark.parametrize(("stage", "is_its_own"), [("words", True), ("audit", False)])
def test_a_new_param_of_another_stages_section_is_compared_and_given_to_nobody(toy, stage, is_its_own):
    locked = {"words": {"least": 2}, "audit": {}}
    edit(toy, "params.yaml", "least: 2", "least: 2\n  most: null")
    verdict, added = Verdict(), {}
    judge_params(toy, stage, "params.yaml", ["words"], locked, added, verdict)
    assert verdict.reasons == []
    assert verdict.params == {"words": {"least": 2, "most": None}}
    assert bool(added) is is_its_own
