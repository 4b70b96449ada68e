import json
from pathlib import Path

import pytest
import typer

from retune.use.command import changed_params, differences, set_value
from retune.use.copying import brought, named_columns

ROW = '{"prompt": "q", "completion": "a"}\n'
PARAMS = """\
# the head
train: # section
  rate: 2e-4 # per step
  steps: null
  modules: [q, v]
data:
  - a
mixed:
  - source: a
    rows: null # all
"""


def test_override_changes_one_value_and_keeps_every_other_byte():
    values, text = changed_params(PARAMS, ["train.rate=0.5"])
    assert values["train"]["rate"] == 0.5
    assert text == PARAMS.replace("2e-4", "0.5 ")


@pytest.mark.parametrize(
    ("value", "found"),
    [("3", 3), ("3e-3", 0.003), ("null", None), ("[q]", ["q"]), ("'3'", "3"), ("true", True), ("a: b", {"a": "b"})],
)
def test_override_is_read_as_yaml_as_dvc_reads_it(value, found):
    values, text = changed_params(PARAMS, [f"train.steps={value}"])
    assert values["train"]["steps"] == found
    assert changed_params(text, [])[0] == values


def test_override_of_an_item_of_a_list_names_it_by_its_number():
    values, text = changed_params(PARAMS, ["mixed.0.rows=100"])
    assert values["mixed"] == [{"source": "a", "rows": 100}]
    assert text.replace("100", "null").split() == PARAMS.split()


def test_null_is_written_as_null():
    assert "rate: null # per step" in " ".join(changed_params(PARAMS, ["train.rate=null"])[1].split())


def test_no_override_keeps_the_text():
    assert changed_params(PARAMS, [])[1] == PARAMS


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.rte=1", "did you mean train.rate"),
        ("rate=1", "did you mean train.rate"),
        ("train=1", "no such param"),
        ("train.rate.deep=1", "no such param"),
        ("mixed.1.rows=1", "did you mean mixed.0.rows"),
        ("mixed.rows=1", "did you mean mixed.0.rows"),
        ("mixed.x.rows=1", "no such param"),
        ("train.rate", "write it as section.key=value"),
        ("train.rate=[1", "not YAML"),
    ],
)
def test_override_that_names_nothing_ends_with_what_is_meant(override, message, capsys):
    with pytest.raises(typer.Exit):
        changed_params(PARAMS, [override])
    assert message in capsys.readouterr().err


def test_override_adds_a_key_where_the_keys_are_the_users():
    values, text = changed_params("audit:\n  gguf:\n    q8_0: {a: 1}\n", ["audit.gguf.q2_k={max_kl_divergence: 0.5}"])
    assert values == {"audit": {"gguf": {"q8_0": {"a": 1}, "q2_k": {"max_kl_divergence": 0.5}}}}
    assert text.startswith("audit:\n  gguf:\n    q8_0: {a: 1}\n    q2_k:")


@pytest.mark.parametrize("override", ["audit.gguf.q8_0.b=1", "audit.b=1", "train.lora.x=1", "audit.gguf.q2_k.a=1"])
def test_override_adds_no_key_elsewhere(override, capsys):
    with pytest.raises(typer.Exit):
        changed_params("audit:\n  gguf:\n    q8_0: {a: 1}\ntrain:\n  lora: {r: 1}\n", [override])
    assert "no such param" in capsys.readouterr().err


def test_set_value_does_not_add_keys():
    tree = {"a": {"b": 1}}
    with pytest.raises(typer.Exit):
        set_value(tree, "a.c", 2)
    assert tree == {"a": {"b": 1}}


def test_differences_tell_old_and_new_at_any_depth():
    old = {"a": {"b": {"c": 1}, "d": None}, "e": [1]}
    assert differences(old, {"a": {"b": {"c": 2}}, "e": [1], "f": None}) == {
        "a.b.c": [1, 2],
        "f": [None, None],
        "a.d": [None, None],
    }


def test_differences_within_a_list_of_mappings_are_told_by_number():
    old = {"a": [{"b": 1}], "c": []}
    assert differences(old, {"a": [{"b": 2}, {"b": 3}], "c": []}) == {"a.0.b": [1, 2], "a.1.b": [None, 3]}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    (folder / "checkpoint-1").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "optimizer.pt", "checkpoint-1/config.json"):
        (folder / name).write_text("{}")
    return folder


def test_files_that_are_not_kept_leave_the_folders_as_they_were(project, model, tmp_path):
    (project / "data/custom/rows.jsonl").write_text("before")
    (project / "data/custom_base/old.safetensors").write_text("before")
    (tmp_path / "rows.jsonl").write_text("after")
    with brought(project, [tmp_path / "rows.jsonl"], model):
        assert (project / "data/custom/rows.jsonl").read_text() == "after"
        assert names(project / "data/custom_base") == [".gitkeep", "config.json", "model.safetensors", "tokenizer.json"]
    assert (project / "data/custom/rows.jsonl").read_text() == "before"
    assert names(project / "data/custom") == ["rows.jsonl"]
    assert names(project / "data/custom_base") == [".gitkeep", "old.safetensors"]


def test_files_are_taken_back_when_the_block_fails(project, tmp_path):
    (tmp_path / "rows.jsonl").write_text("after")
    with pytest.raises(KeyError), brought(project, [tmp_path / "rows.jsonl"], None):
        raise KeyError
    assert names(project / "data/custom") == []


def test_a_link_is_brought_as_a_file(project, tmp_path):
    (tmp_path / "far.jsonl").write_text("rows")
    (tmp_path / "rows.jsonl").symlink_to(tmp_path / "far.jsonl")
    with brought(project, [tmp_path / "rows.jsonl"], None) as keep:
        keep()
    assert not (project / "data/custom/rows.jsonl").is_symlink()


def test_use_lists_the_presets(project, retune):
    done = retune("use", cwd=project)
    assert done.returncode == 0
    assert "demo " in done.stdout
    assert "llama-3.2-3b-finetome" in done.stdout


def test_use_of_a_preset_writes_it_byte_for_byte(project, retune):
    done = retune("use", "llama-3.2-3b-finetome", "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    assert (project / "params.yaml").read_bytes() == (project / "presets/llama-3.2-3b-finetome.yaml").read_bytes()
    assert json.loads(done.stdout)["changed"]["fetch_model.source"][0] == "demo"


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
    assert changed_params((project / "params.yaml").read_text(), [])[0]["fetch_data"]["sources"] == [
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
    ("text", "found"),
    [
        ("prompt=q,answer=a", {"prompt": "q", "answer": "a", "system": None}),
        ("system=s, prompt=my q , answer=a=b", {"prompt": "my q", "answer": "a=b", "system": "s"}),
        ("messages=turns", {"messages": "turns"}),
        ("prompt=q", None),
        ("prompt=q,answer", None),
        ("prompt=q,prompt=a,answer=b", None),
        ("messages=m,prompt=q,answer=a", None),
        ("question=q,answer=a", None),
        ("prompt=q,anwser=a", None),
        ("", None),
    ],
)
def test_columns_are_named_by_what_they_hold(text, found):
    if found is None:
        with pytest.raises(typer.Exit):
            named_columns(text)
    else:
        assert named_columns(text) == found


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


def test_use_says_which_stages_will_run(toy):
    from retune.project import dvc_status
    from retune.use.command import after

    (toy / "params.yaml").write_text("words:\n  least: 3\n")
    assert after(toy, set(dvc_status(toy))) == (["words"], ["count"])


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
