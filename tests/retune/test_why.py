import json
import shutil
import subprocess

import pytest

from stages.core.project_code import keep_code

pytestmark = pytest.mark.slow


@pytest.fixture
def ask(retune, toy):
    """`retune why` in the toy: its lines."""

    def lines(*stages):
        done = retune("why", *stages, cwd=toy)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    return lines


def edit(root, name, old, new):
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new))


def test_why_with_nothing_changed_says_so(ask):
    assert ask() == ["Nothing would run."]
    assert ask("count") == ["count: would not run; nothing has changed"]


def test_why_names_the_key_with_both_values_and_who_waits(ask, toy):
    edit(toy, "params.yaml", "least: 2", "least: 3")
    waits = "count: would run after words if the outputs differ"
    assert ask() == ["words: words.least 2 -> 3", waits]
    assert ask("count") == ["count: waits for words, which will run because words.least 2 -> 3", waits]


def test_why_names_the_file_in_a_package_and_the_line(ask, toy):
    edit(toy, "stages/parts/tone.py", '"!?"', '"!"')
    edit(toy, "stages/parts/deep/page.jinja", "words", "letters")
    edit(toy, "stages/parts/__init__.py", "Parts.", "More parts.")
    (toy / "stages/parts/more.py").write_text("")
    harmless = "changed in comments or docstrings alone (`retune accept` records that as harmless)"
    assert ask("words") == [
        f"words: stages/parts/__init__.py {harmless}",
        "words: stages/parts/deep/page.jinja changed",
        "words: stages/parts/more.py is new",
        "words: stages/parts/tone.py changed (in `soften`, line 6)",
    ]


def test_why_names_the_place_in_code_that_was_never_committed_if_the_stage_kept_it(ask, toy, run_dvc, monkeypatch):
    edit(toy, "stages/parts/tone.py", '"!?"', '"!?."')
    run_dvc(toy, "repro")
    monkeypatch.chdir(toy)
    keep_code()
    edit(toy, "stages/parts/tone.py", '"!?."', '"!"')
    assert ask("words") == ["words: stages/parts/tone.py changed (in `soften`, line 6)"]
    shutil.rmtree(toy / ".retune/code")
    (said,) = ask("words")
    assert said.startswith("words: stages/parts changed; what it held is neither in .retune/code nor in git")


def test_why_of_a_file_that_nobody_kept_names_it_without_a_place(ask, toy, run_dvc):
    edit(toy, "stages/letters.py", "word.lower()", "word.casefold()")
    run_dvc(toy, "repro")
    edit(toy, "stages/letters.py", "word.casefold()", "word.upper()")
    (said,) = ask("words")
    assert said.startswith("words: stages/letters.py changed (what ran is neither in .retune/code nor in git")


def test_why_names_an_input_and_shows_nothing_of_it(ask, toy):
    edit(toy, "text.txt", "Red", "secret")
    assert ask("words") == ["words: text.txt changed"]
    (toy / "text.txt").unlink()
    assert ask("words") == ["words: text.txt is missing"]


def test_why_names_what_an_earlier_stage_has_written_since(ask, toy, run_dvc):
    edit(toy, "params.yaml", "least: 2", "least: 3")
    run_dvc(toy, "repro", "--single-item", "words")
    assert ask() == ["count: out/words changed (words has run since)"]


def test_why_names_outputs_that_are_gone_or_were_changed(ask, toy):
    (toy / "out/words").write_text("forged")
    assert ask("words") == ["words: out/words was changed since words wrote it"]
    (toy / "out/words").unlink()
    assert ask() == [
        "words: out/words is missing; if the cache has it, `retune restore words` brings it back",
        "count: would run after words if the outputs differ",
    ]


def test_why_names_the_words_of_a_command_that_are_others(ask, toy):
    edit(toy, "dvc.yaml", "cmd: python -m stages.words", "cmd: python -B -m stages.words --fast")
    assert ask("words") == ["words: its command in dvc.yaml: `-B` is new, `--fast` is new"]


def test_why_of_a_stage_that_never_ran_says_so(ask, toy):
    (toy / "dvc.lock").unlink()
    assert ask("words") == ["words: has not run yet"]
    assert ask("count") == ["count: has not run yet"]


def test_why_of_keys_and_sections_that_came_or_went(ask, toy):
    (toy / "params.yaml").write_text("words: {most: 3}\n")
    assert ask("words") == ["words: words.least is gone (it was 2)", "words: words.most is new: 3"]
    (toy / "params.yaml").write_text("other: {}\n")
    assert ask("words") == ["words: words is missing from params.yaml"]


def test_why_of_an_input_that_dvc_yaml_names_anew(ask, toy):
    (toy / "more.txt").write_text("more")
    edit(toy, "dvc.yaml", "stages/parts, text.txt", "stages/parts, more.txt, text.txt")
    assert ask("words") == ["words: more.txt is new among its inputs in dvc.yaml"]


def test_why_of_an_output_that_dvc_yaml_names_anew(ask, toy):
    edit(toy, "dvc.yaml", "outs: [out/words]", "outs: [out/words, out/more]")
    assert ask("words") == ["words: out/more is a new output in dvc.yaml"]


def test_why_of_a_folder_of_data_names_the_file_by_git_or_by_the_cache(ask, toy, run_dvc):
    (toy / "texts").mkdir()
    (toy / "texts/a.txt").write_text("a")
    (toy / "texts/b.txt").write_text("b")
    edit(toy, "dvc.yaml", "stages/parts, text.txt", "stages/parts, texts, text.txt")
    run_dvc(toy, "repro")
    (toy / "texts/a.txt").write_text("changed")
    assert ask("words") == ["words: texts changed; which of its files is not known"]
    (toy / "texts/a.txt").write_text("a")
    subprocess.run(["git", "add", "texts"], cwd=toy, check=True)
    (toy / "texts/a.txt").write_text("changed")
    (toy / "texts/c.txt").write_text("c")
    (toy / "texts/b.txt").unlink()
    assert ask("words") == ["words: texts/a.txt changed", "words: texts/b.txt is gone", "words: texts/c.txt is new"]


def test_why_of_a_file_that_dvc_tracks_by_itself(ask, toy, run_dvc):
    (toy / "more.txt").write_text("more")
    run_dvc(toy, "add", "more.txt")
    assert ask() == ["Nothing would run."]
    (toy / "more.txt").write_text("less")
    assert ask() == ["more.txt.dvc: more.txt is not what more.txt.dvc says"]


def test_why_in_json_has_the_values_and_what_waits(retune, toy):
    edit(toy, "params.yaml", "least: 2", "least: [2, 3]")
    answer = json.loads(retune("why", "--json", cwd=toy).stdout)["stages"]
    cause = {"kind": "param", "name": "words.least", "text": "words.least 2 -> [2, 3]", "old": 2, "new": [2, 3]}
    assert answer["words"] == {"runs": "yes", "causes": [cause], "after": []}
    assert answer["count"] == {"runs": "perhaps", "causes": [], "after": ["words"]}


def test_why_of_an_unknown_stage_ends_with_those_there_are(retune, toy):
    done = retune("why", "wrods", cwd=toy)
    assert done.returncode == 1
    assert "no stage wrods; it has words, count" in done.stderr


def test_why_changes_nothing(ask, toy):
    edit(toy, "params.yaml", "least: 2", "least: 3")
    files = {path: path.read_bytes() for path in toy.rglob("*") if path.is_file() and ".dvc/tmp" not in str(path)}
    ask()
    assert files == {
        path: path.read_bytes() for path in toy.rglob("*") if path.is_file() and ".dvc/tmp" not in str(path)
    }
