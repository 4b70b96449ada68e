import pytest

from stages.core.errors import StageError
from stages.fetching.splits import choose_files


def card(yaml: str) -> str:
    return f"---\n{yaml}\n---\n# text\n"


def test_shards_are_split_by_their_names_in_order() -> None:
    paths = [
        "data/train-00001-of-00002.parquet",
        "data/train-00000-of-00002.parquet",
        "data/test_sft-00000-of-00001-abc.parquet",
        "other.json",
    ]
    assert choose_files("o/n", paths, None, None, "train") == sorted(paths[:2])
    assert choose_files("o/n", paths, None, None, "test_sft") == paths[2:3]


def test_split_words_in_folders_and_names_are_found() -> None:
    assert choose_files("o/n", ["train/a.jsonl", "valid/a.jsonl"], None, None, "validation") == ["valid/a.jsonl"]
    assert choose_files("o/n", ["my-train_v2.csv", "my-dev.csv"], None, None, "train") == ["my-train_v2.csv"]


def test_files_without_split_words_are_train() -> None:
    paths = ["b.jsonl", "a.jsonl", "README.md", ".hidden.jsonl", "dataset_infos.json", "trainer.py"]
    assert choose_files("o/n", paths, None, None, "train") == ["a.jsonl", "b.jsonl"]


def test_declared_files_win_over_names() -> None:
    text = card(
        "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: [x/*.parquet, y/**/z?.parquet]\n  - split: test\n    path: t[01].parquet"
    )
    paths = [
        "train.parquet",
        "x/1.parquet",
        "x/deep/2.parquet",
        "y/z1.parquet",
        "y/a/b/z2.parquet",
        "t0.parquet",
        "t2.parquet",
    ]
    assert choose_files("o/n", paths, text, None, "train") == ["x/1.parquet", "y/a/b/z2.parquet", "y/z1.parquet"]
    assert choose_files("o/n", paths, text, None, "test") == ["t0.parquet"]


def test_config_is_chosen_by_name_or_default() -> None:
    text = card(
        "configs:\n- config_name: a\n  data_dir: one\n- config_name: b\n  data_files: two/f.csv\n  default: true"
    )
    paths = ["one/f.csv", "two/f.csv"]
    assert choose_files("o/n", paths, text, "a", "train") == ["one/f.csv"]
    assert choose_files("o/n", paths, text, None, "train") == ["two/f.csv"]


@pytest.mark.parametrize(
    ("paths", "text", "config", "split", "message"),
    [
        (["train.csv", "test.csv"], None, None, "validation", "test, train"),
        (["train.csv"], None, "a", "train", "declares none"),
        (["train.csv"], card("configs:\n- config_name: a\n- config_name: b"), None, "train", "a, b"),
        (["train.csv"], card("configs:\n- config_name: a\n- config_name: b"), "c", "train", "it has a, b"),
        (["train.csv"], card("configs:\n- config_name: a\n  data_files: ../x.csv"), None, "train", "outside"),
        (
            ["train.csv"],
            card("configs:\n- config_name: a\n  data_files: https://example.org/x.csv"),
            None,
            "train",
            "outside",
        ),
        (["train.csv"], card("configs: [\n"), None, "train", "YAML"),
        (["train.csv", "train.parquet"], None, None, "train", "several kinds"),
        (["train.tar"], card("configs:\n- config_name: a\n  data_files: train.tar"), None, "train", ".tar"),
        (["n.py", "data.zip"], None, None, "train", "loading script"),
        ([], None, None, "train", "no file"),
    ],
)
def test_what_cannot_be_chosen_says_what_there_is(
    paths: list[str], text: str | None, config: str | None, split: str, message: str
) -> None:
    with pytest.raises(StageError, match=message):
        choose_files("o/n", paths, text, config, split)


def test_choice_equals_that_of_datasets(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle: datasets' own resolution of the same file names, on a local folder."""
    data_files = pytest.importorskip("datasets.data_files")
    cases = [
        ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.parquet"],
        ["train.jsonl", "test.jsonl", "valid.jsonl"],
        ["training/a.csv", "evaluation/b.csv", "evaluation/c.csv"],
        ["part1.jsonl", "part2.jsonl"],
        ["chat_train_v1.parquet", "chat_dev.parquet"],
        ["a/b/train/x.parquet", "a/b/test/x.parquet"],
        ["constraint.jsonl", "latest.jsonl"],
        ["data/train_sft-00000-of-00001.parquet", "data/test_gen-00000-of-00001.parquet"],
    ]
    for number, paths in enumerate(cases):
        folder = tmp_path / str(number)
        for path in paths:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(b"{}")
        monkeypatch.chdir(folder)
        patterns = data_files.get_data_patterns(str(folder))
        theirs = {
            str(split): [file.removeprefix(f"{folder}/") for file in files]
            for split, files in data_files.DataFilesDict.from_patterns(patterns, str(folder)).items()
        }
        for split, files in theirs.items():
            assert choose_files("o/n", paths, None, None, split) == files, (paths, split)
