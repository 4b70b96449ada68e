"""Which files of data/custom a source is, and that none outside of it is read."""

import os
from pathlib import Path

import pytest

from stages.core.errors import StageError
from stages.fetching.source_files import find_custom_files
from tests.stages.dataset_files.support.data_files import fetch, noted, params


def folder(tmp_path: Path, *names: str) -> Path:
    custom = tmp_path / "custom"
    for name in names:
        (custom / name).parent.mkdir(parents=True, exist_ok=True)
        (custom / name).write_text("{}\n")
    return custom


def names(custom: Path, split: str | None = None, config: str | None = None) -> list[str]:
    return [name for name, _ in find_custom_files(custom, "data/custom/f", config, split)]


def test_shards_of_a_folder_come_in_order_of_their_names(tmp_path: Path) -> None:
    files = {f"f/{name}.jsonl": b'{"n": "%s"}\n' % name.encode() for name in ("b", "a/z", "c", "a/b")}
    rows = fetch(tmp_path, files, params("data/custom/f"))
    assert [(row["file"], row["line"], row["record"]) for row in rows] == [
        (f"f/{name}.jsonl", 1, b'{"n": "%s"}' % name.encode()) for name in ("a/b", "a/z", "b", "c")
    ]
    assert list(noted(tmp_path)["sources"][0]["files"]) == sorted(files)


def test_hidden_and_state_files_and_caches_are_no_rows(tmp_path: Path) -> None:
    hidden = [".hidden.arrow", ".git/a.arrow", "__pycache__/a.arrow", "state.json", "dataset_info.json", "README.md"]
    caches = ["cache-0123456789abcdef.arrow", "cache-0123456789abcdef_00000_of_00002.arrow", "tmpab12_cd.arrow"]
    custom = folder(tmp_path, *(f"f/{name}" for name in [*hidden, *caches, "data-00000-of-00001.arrow"]))
    (custom / "f/.cache").mkdir()
    (custom / "f/.cache/link.arrow").symlink_to("/etc/hostname")
    assert names(custom) == ["f/data-00000-of-00001.arrow"]


def test_folder_that_datasets_saved_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    splits = {
        name: datasets.Dataset.from_list([{"a": name, "n": [number]} for number in range(5)])
        for name in ("train", "test")
    }
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "custom/f", num_shards={"train": 2, "test": 1})
    splits["test"].save_to_disk(tmp_path / "custom/alone")
    rows = fetch(tmp_path, {}, params("data/custom/f", split="train"))
    assert [row["record"] for row in rows] == [b'{"a":"train","n":[%d]}' % number for number in range(5)]
    assert [row["line"] for row in rows] == [1, 2, 3, 1, 2]
    assert len(fetch(tmp_path, {}, params("data/custom/alone"))) == 5


def test_split_is_chosen_as_of_a_hub_dataset(tmp_path: Path) -> None:
    custom = folder(tmp_path, "f/train-00000-of-00001.jsonl", "f/validation/a.jsonl", "f/x.py")
    assert names(custom, "validation") == ["f/validation/a.jsonl"]
    custom = folder(tmp_path / "2", "f/data/train-00000-of-00001.jsonl", "f/data/test-00000-of-00001.jsonl")
    assert names(custom, "train") == ["f/data/train-00000-of-00001.jsonl"]


def test_card_of_a_folder_declares_its_files(tmp_path: Path) -> None:
    custom = folder(tmp_path, "f/one.jsonl", "f/two.jsonl")
    (custom / "f/README.md").write_text(
        "---\nconfigs:\n- config_name: a\n  data_files: two.jsonl\n- config_name: b\n  data_files: one.jsonl\n---\n"
    )
    assert names(custom, config="a") == ["f/two.jsonl"]
    with pytest.raises(StageError, match="several configs"):
        names(custom)


@pytest.mark.parametrize(
    ("others", "said"),
    [
        (["x.txt"], "1 file was not read: x.txt"),
        (["x.txt", "y.txt"], "2 files were not read: x.txt, y.txt"),
        ([f"{n}.txt" for n in range(7)], "7 files were not read: 0.txt, 1.txt, 2.txt, 3.txt, 4.txt ..."),
    ],
)
def test_files_that_are_no_data_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, others: list[str], said: str
) -> None:
    caplog.set_level("INFO", "retune")
    assert names(folder(tmp_path, "f/a.jsonl", *(f"f/{name}" for name in others))) == ["f/a.jsonl"]
    assert caplog.messages == [f"data/custom/f: {said}"]


def test_folder_with_one_split_by_name_gives_all_its_files(tmp_path: Path) -> None:
    assert names(folder(tmp_path, "f/test.jsonl", "f/other.jsonl")) == ["f/other.jsonl", "f/test.jsonl"]


@pytest.mark.parametrize(
    ("files", "split", "message"),
    [
        (["f/train.jsonl", "f/test.jsonl"], None, "splits test, train: set `split`"),
        (["f/train.jsonl"], "test", "no split 'test'; `split` may be train"),
        (["f/a.jsonl", "f/b.csv"], None, r"several kinds \(.csv, .jsonl\).* Keep those of one kind, or name one file"),
        (["f/a.jsonl", "f/a.jsonl.gz"], None, "several kinds"),
        (["f/a.txt"], None, "no file that ends in"),
        (["g/a.jsonl"], None, "retune use --data"),
    ],
)
def test_folder_that_is_not_clear_says_what_there_is(
    tmp_path: Path, files: list[str], split: str | None, message: str
) -> None:
    with pytest.raises(StageError, match=message):
        names(folder(tmp_path, *files), split)


@pytest.mark.parametrize(
    "source",
    [
        "data/custom/../outside.jsonl",
        "data/custom//etc/hostname.jsonl",
        "data/custom/link.jsonl",
        "data/custom/up/outside.jsonl",
        "data/custom/up",
        "data/custom/with_link",
        "data/custom/with_folder",
        "data/custom/with_card",
        "data/custom/",
    ],
)
def test_what_lies_outside_is_refused(tmp_path: Path, source: str) -> None:
    custom = folder(tmp_path, "with_link/a.jsonl", "with_folder/a.jsonl", "with_card/a.jsonl")
    (tmp_path / "outside.jsonl").write_text("{}\n")
    (custom / "link.jsonl").symlink_to("../outside.jsonl")
    (custom / "up").symlink_to("..")
    (custom / "with_link/b.jsonl").symlink_to("../../outside.jsonl")
    (custom / "with_folder/up").symlink_to("../..")
    (custom / "with_card/README.md").symlink_to("../../outside.jsonl")
    with pytest.raises(StageError, match="outside"):
        find_custom_files(custom, source, None, None)


def test_link_within_data_custom_is_followed_to_a_file_and_refused_to_a_folder(tmp_path: Path) -> None:
    custom = folder(tmp_path, "real.jsonl", "f/a.jsonl", "g/b.jsonl")
    (custom / "link.jsonl").symlink_to("real.jsonl")
    (custom / "f/link.jsonl").symlink_to("../real.jsonl")
    assert len(fetch(tmp_path, {}, params("data/custom/link.jsonl"))) == 1
    assert names(custom) == ["f/a.jsonl", "f/link.jsonl"]
    (custom / "f/g").symlink_to("../g")
    with pytest.raises(StageError, match="link to a folder"):
        names(custom)


def test_link_that_leads_nowhere_is_an_error(tmp_path: Path) -> None:
    custom = folder(tmp_path, "f/a.jsonl")
    (custom / "f/b.jsonl").symlink_to("gone.jsonl")
    with pytest.raises(StageError, match=r"f/b.jsonl is not there"):
        fetch(tmp_path, {}, params("data/custom/f"))


def test_link_in_a_circle_is_an_error(tmp_path: Path) -> None:
    custom = folder(tmp_path, "f/a.jsonl")
    (custom / "f/b.jsonl").symlink_to("b.jsonl")
    (custom / "c.jsonl").symlink_to("c.jsonl")
    for source in ("data/custom/f", "data/custom/c.jsonl", f"data/custom/{'n' * 300}.jsonl"):
        with pytest.raises(StageError, match="leads nowhere"):
            find_custom_files(custom, source, None, None)


def test_name_that_is_not_utf_8_is_an_error(tmp_path: Path) -> None:
    custom = folder(tmp_path, "f/a.jsonl")
    (custom / os.fsdecode(b"f/\xe9.jsonl")).write_text("{}")
    with pytest.raises(StageError, match=r"\\udce9.jsonl' is not UTF-8"):
        names(custom)
