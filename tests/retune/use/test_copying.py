from pathlib import Path

import pytest
import typer

from retune.use.copying import bring_files, read_columns


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_that_are_not_kept_leave_the_folders_as_they_were(project, model, tmp_path):
    (project / "data/custom/rows.jsonl").write_text("before")
    (project / "data/custom_base/old.safetensors").write_text("before")
    (tmp_path / "rows.jsonl").write_text("after")
    with bring_files(project, [tmp_path / "rows.jsonl"], model):
        assert (project / "data/custom/rows.jsonl").read_text() == "after"
        assert names(project / "data/custom_base") == [".gitkeep", "config.json", "model.safetensors", "tokenizer.json"]
    assert (project / "data/custom/rows.jsonl").read_text() == "before"
    assert names(project / "data/custom") == ["rows.jsonl"]
    assert names(project / "data/custom_base") == [".gitkeep", "old.safetensors"]


def test_files_are_taken_back_when_the_block_fails(project, tmp_path):
    (tmp_path / "rows.jsonl").write_text("after")
    with pytest.raises(KeyError), bring_files(project, [tmp_path / "rows.jsonl"], None):
        raise KeyError
    assert names(project / "data/custom") == []


def test_a_link_is_brought_as_a_file(project, tmp_path):
    (tmp_path / "far.jsonl").write_text("rows")
    (tmp_path / "rows.jsonl").symlink_to(tmp_path / "far.jsonl")
    with bring_files(project, [tmp_path / "rows.jsonl"], None) as keep:
        keep()
    assert not (project / "data/custom/rows.jsonl").is_symlink()


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
            read_columns(text)
    else:
        assert read_columns(text) == found
