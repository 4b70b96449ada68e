import json
from pathlib import Path

import pytest

from retune.use.overrides import apply_overrides
from retune.use.presets import read_preset, write_preset
from tests.project import ROOT

pytestmark = pytest.mark.slow

ROW = '{"prompt": "q", "completion": "a"}\n'


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_use_lists_the_presets(project, retune):
    done = retune("use", cwd=project)
    assert done.returncode == 0
    assert "demo " in done.stdout
    assert "llama-3.2-3b-finetome" in done.stdout
    assert "for a GPU with 6 GB" in done.stdout


def test_use_of_a_preset_writes_all_of_its_params(project, retune):
    done = retune("use", "llama-3.2-3b-packed-8gb", "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    text = (project / "params.yaml").read_text()
    assert text == write_preset(project, "llama-3.2-3b-packed-8gb")
    assert apply_overrides(text, [])[0] == read_preset(project, "llama-3.2-3b-packed-8gb")
    assert json.loads(done.stdout)["changed"]["fetch_model.source"][0] == "demo"


def test_use_of_a_whole_file_of_your_own_takes_it_byte_for_byte(project, retune, tmp_path):
    mine = (project / "params.yaml").read_text().replace("steps: 60 ", "steps: 61 ").replace("# Optimizer", "# mine:")
    (tmp_path / "mine.yaml").write_text(mine)
    assert retune("use", str(tmp_path / "mine.yaml"), cwd=project).returncode == 0
    assert (project / "params.yaml").read_text() == mine


def test_use_of_a_preset_mends_a_params_file_that_is_no_yaml(project, retune):
    (project / "params.yaml").write_text("train: [")
    assert "not valid YAML" in retune("use", "--set", "train.steps=7", cwd=project).stderr
    done = retune("use", "demo", cwd=project)
    assert done.returncode == 0, done.stderr
    assert (project / "params.yaml").read_text() == write_preset(project, "demo")


def test_use_of_a_file_of_your_own_may_build_on_a_preset(project, retune, tmp_path):
    (tmp_path / "mine.yaml").write_text("# Mine.\nbuilds_on: llama-3.2-3b-finetome\n\ntrain:\n  steps: 61 # so long\n")
    assert retune("use", str(tmp_path / "mine.yaml"), cwd=project).returncode == 0
    text = (project / "params.yaml").read_text()
    assert text.startswith("# Mine.\n")
    assert "  # Optimizer steps to train; null: `epochs` says how long\n  steps: 61 # so long\n" in text


def test_section_that_the_whole_preset_lacks_is_said_with_its_file(project, retune):
    whole = project / "presets/llama-3.2-3b-finetome.yaml"
    whole.write_text(whole.read_text().replace("\nreport:\n  title: Llama 3.2 3B on FineTome\n  examples: 8\n", ""))
    (project / "presets/demo.yaml").write_text("# what\nbuilds_on: llama-3.2-3b-finetome\n")
    done = retune("use", "demo", cwd=project)
    assert done.returncode == 1
    said = "report: this section is missing in presets/llama-3.2-3b-finetome.yaml"
    assert said in done.stderr
    assert said in json.loads(retune("use", "demo", "--json", cwd=project).stdout)["problems"]


def test_set_keeps_what_stands_beside_the_keys(project, retune):
    before = (project / "params.yaml").read_text()
    done = retune("use", "--set", "train.steps=7", "--set", "train.lora.target_modules=[q_proj]", cwd=project)
    assert done.returncode == 0, done.stderr
    changed = set((project / "params.yaml").read_text().splitlines()) - set(before.splitlines())
    assert changed == {
        "  steps: 7                            # Optimizer steps to train; null: `epochs` says how long",
        "    target_modules: [q_proj]",
    }


def test_data_that_is_brought_has_the_meaning_of_its_keys_beside_them(project, retune, tmp_path):
    (tmp_path / "a.jsonl").write_text(ROW)
    assert retune("use", "--data", str(tmp_path / "a.jsonl"), cwd=project).returncode == 0
    text = (project / "params.yaml").read_text()
    assert "  - source: data/custom/a.jsonl       # `demo`, a file or folder in data/custom" in text
    assert text.replace("data/custom/a.jsonl ", "demo                ") == write_preset(project, "demo")


def test_use_with_errors_says_all_of_them_and_writes_nothing(project, retune, tmp_path):
    (tmp_path / "mine.jsonl").write_text("{}")
    before = (project / "params.yaml").read_bytes()
    done = retune(
        "use", "demo", "--set", "train.steps=-1", "--set", "runtime.device=tpu", "--data", str(tmp_path / "mine.jsonl"),
        cwd=project,
    )  # fmt: skip
    assert done.returncode == 1
    assert "train.steps" in done.stderr
    assert "runtime.device" in done.stderr
    assert (project / "params.yaml").read_bytes() == before
    assert names(project / "data/custom") == []


def test_use_of_own_files_brings_and_names_them(project, retune, tmp_path, model):
    (tmp_path / "my rows.jsonl").write_text(ROW)
    done = retune("use", "--data", str(tmp_path / "my rows.jsonl"), "--model", str(model), "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    changed = json.loads(done.stdout)["changed"]
    assert changed["fetch_data.sources.0.source"] == ["demo", "data/custom/my rows.jsonl"]
    assert changed["fetch_model.source"] == ["demo", "custom"]
    assert (project / "data/custom/my rows.jsonl").read_text() == ROW


def test_use_of_several_datasets_makes_a_mixture(project, retune, tmp_path):
    (tmp_path / "a.csv").write_text("q,a\n1,2\n")
    shards = tmp_path / "shards"
    for name in ("train/1.jsonl", "test/1.jsonl", ".git/x.jsonl", "README.md", "notes.txt"):
        (shards / name).parent.mkdir(parents=True, exist_ok=True)
        (shards / name).write_text(ROW)
    (shards / "train/2.jsonl").symlink_to(shards / "test/1.jsonl")
    done = retune(
        "use", "--data", str(tmp_path / "a.csv"), "--data", f"{shards}/", "--columns", "prompt=q, answer=a", "--columns", "-",
        "--set", "fetch_data.sources.1.split=train", "--set", "fetch_data.sources.0.max_rows=100",
        cwd=project,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    mapped = {"prompt": "q", "answer": "a", "system": None}
    alone = {"revision": None, "config": None, "split": None, "columns": mapped, "weight": None, "max_rows": None}
    assert apply_overrides((project / "params.yaml").read_text(), [])[0]["fetch_data"]["sources"] == [
        {**alone, "source": "data/custom/a.csv", "max_rows": 100},
        {**alone, "columns": None, "source": "data/custom/shards", "split": "train"},
    ]
    brought_files = [path for path in (project / "data/custom").rglob("*") if path.is_file()]
    assert sorted(path.relative_to(project / "data/custom").as_posix() for path in brought_files) == [
        "a.csv", "shards/README.md", "shards/test/1.jsonl", "shards/train/1.jsonl", "shards/train/2.jsonl",
    ]  # fmt: skip
    assert not any(path.is_symlink() for path in brought_files)
    assert "sources.0.split" not in done.stdout, "what was null before and is null now is not told"


def test_folder_that_is_brought_again_replaces_the_one_before_and_comes_back_on_errors(project, retune, tmp_path):
    (tmp_path / "f").mkdir()
    (tmp_path / "f/new.jsonl").write_text(ROW)
    (project / "data/custom/f").mkdir()
    (project / "data/custom/f/old.jsonl").write_text(ROW)
    assert retune("use", "--data", str(tmp_path / "f"), "--set", "train.steps=-1", cwd=project).returncode == 1
    assert names(project / "data/custom/f") == ["old.jsonl"]
    done = retune("use", "--data", str(tmp_path / "f"), cwd=project)
    assert done.returncode == 0, done.stderr
    assert names(project / "data/custom/f") == ["new.jsonl"]
    assert "data/custom/f was replaced" in done.stdout
    assert "replaced" not in retune("use", "--data", str(tmp_path / "f"), cwd=project).stdout


def test_data_that_is_in_data_custom_already_stays_there(project, retune):
    (project / "data/custom/f").mkdir()
    (project / "data/custom/f/old.jsonl").write_text(ROW)
    assert retune("use", "--data", "data/custom/f", cwd=project).returncode == 0
    assert names(project / "data/custom/f") == ["old.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dmo"], "did you mean demo"),
        (["--data", "missing.jsonl"], "no such file"),
        (["--data", "dvc.yaml"], "ends in .jsonl"),
        (["--data", "presets"], "no file in it ends in .jsonl"),
        (["--data", "."], "this project lies in that folder"),
        (["--data", "data/custom"], "name a file or a folder in it"),
        (["--data", "rows.csv", "--data", "data/rows.csv"], "two are named rows.csv"),
        (["--columns", "prompt=q,answer=a"], "what --data brings"),
        (["--data", "rows.csv", "--columns", "prompt=a,anwser=b"], "unknown anwser; known are prompt, answer,"),
        (["--data", "rows.csv", "--data", "presets", "--columns", "prompt=a,answer=b"], "1 for 2 --data"),
        (["--data", "rows.csv", "--columns", "prompt=a,answer=c"], "rows.csv has no column 'c'"),
        (["--data", "rows.csv"], "the layout of rows.csv is not clear"),
        (["--data", "rows.csv", "--columns", "prompt"], "prompt=COLUMN,answer=COLUMN"),
        (["--set", "fetch_data.source=demo"], "did you mean fetch_data.sources.0.source?"),
        (["--model", "presets"], "config.json"),
    ],
)
def test_use_of_what_is_not_there_says_so(project, retune, arguments, message):
    for name in ("rows.csv", "data/rows.csv"):
        (project / name).write_text("a,b\n1,2\n")
    done = retune("use", *arguments, cwd=project)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"prompt,answer\n", "holds no rows"), (b'{"prompt": "q", "chosen": "a", "rejected": "b"}\n', "preference data"), (b"[1]\n", "no row")],
)  # fmt: skip
def test_data_that_is_not_recognized_is_refused_before_anything_is_written_unless_forced(
    project, retune, tmp_path, content, says
):
    name = "mine.csv" if b"," in content[:8] else "mine.jsonl"
    (tmp_path / name).write_bytes(content)
    before = (project / "params.yaml").read_bytes()
    done = retune("use", "--data", str(tmp_path / name), cwd=project)
    assert done.returncode == 1
    assert says in done.stderr
    assert "data/custom" not in done.stderr, "it is called what the user called it"
    assert ((project / "params.yaml").read_bytes(), names(project / "data/custom")) == (before, [])
    assert retune("use", "--data", str(tmp_path / name), "--force", cwd=project).returncode == 0
    assert names(project / "data/custom") == [name]


def test_use_counts_the_changes_that_it_lists(project, retune, tmp_path):
    (tmp_path / "mine.jsonl").write_text(ROW)
    paths = [str(tmp_path / "mine.jsonl"), "--data", "data/demo.jsonl"]
    (project / "data/demo.jsonl").write_text(ROW)
    said = retune("use", "--data", *paths, cwd=project).stdout
    assert "params.yaml: 2 changed\n" in said
    assert said.count(" -> ") == 2


def test_use_says_what_a_chosen_template_does_or_why_it_will_be_refused(project, retune):
    (project / "data/demo").symlink_to(ROOT / "data/demo")
    said = retune("use", "--set", "template.chat_template=plain", cwd=project).stdout
    assert "The chat template:\n  prompt       an answer follows the generation prompt" in said
    assert "  BOS          once" in said
    assert "chat template" not in retune("use", "--set", "train.steps=61", cwd=project).stdout
    (project / "data/custom/mine.jinja").write_text("{{ raise_exception('no') }}")
    refused = json.loads(retune("use", "--json", "--set", "template.chat_template=mine.jinja", cwd=project).stdout)
    assert refused["template"] == {}
    assert "`template` will refuse this: the chat template refuses a plain dialogue" in refused["reminders"][-1]
