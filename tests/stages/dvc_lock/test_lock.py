from pathlib import Path

import pytest

from stages.core.errors import StageError
from stages.dvc_lock.lock import read_locked_stages

LOCK = """\
schema: '2.0'
stages:
  train:
    cmd: python -m stages.train --base data/base
    deps:
    - path: data/base
      hash: md5
      md5: 0123.dir
      size: 12
      nfiles: 2
    params:
      params.yaml:
        train:
          learning_rate: 0.002
          lora: {r: 8}
    outs:
    - path: data/adapter
      hash: md5
      md5: 4567.dir
  check:
    cmd: python -m stages.check
"""
MERGE = LOCK.replace("          learning_rate: 0.002\n", "<<<<<<< ours\n=======\n>>>>>>> theirs\n")


def test_read_locked_stages_gives_what_dvc_wrote(tmp_path: Path) -> None:
    (tmp_path / "dvc.lock").write_text(LOCK)
    found = read_locked_stages(tmp_path)
    assert list(found) == ["train", "check"]
    train = found["train"]
    assert train.params == {"train": {"learning_rate": 0.002, "lora": {"r": 8}}}
    assert (train.deps, train.outs, train.sizes) == (
        {"data/base": "0123.dir"},
        {"data/adapter": "4567.dir"},
        {"data/base": 12},
    )
    assert train.owns("data/adapter/a")
    assert not train.owns("data/adapter2")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "dvc.lock is empty"),
        (LOCK[:200], "dvc.lock"),
        (LOCK[:21], ""),
        (MERGE, "dvc.lock is in the middle of a merge"),
        (LOCK.replace("'2.0'", "'3.0'"), 'dvc.lock is of schema "3.0", and what is known here is "2.0"'),
        (LOCK.replace("schema: '2.0'\n", ""), "dvc.lock is of schema null"),
        (LOCK + "extra: 1\n", "dvc.lock: unknown `extra`"),
        (LOCK + "    always: 1\n", "dvc.lock: check: unknown `always`"),
        (LOCK.replace("cmd: python -m stages.check", "cmd:"), "dvc.lock: check: `cmd` is missing"),
        ("schema: '2.0'\nstages: [1]\n", "dvc.lock: `stages` must be a mapping"),
        ("schema: '2.0'\nstages: {a: 1}\n", "dvc.lock: a must be a mapping"),
        ("schema: '2.0'\nstages: {a: {cmd: x, outs: 3}}\n", "dvc.lock: a: `outs` must be a list"),
        ("schema: '2.0'\nstages: {a: {cmd: x, deps: [3]}}\n", "dvc.lock: a: `deps` must be a list"),
        ("schema: '2.0'\nstages: {a: {cmd: x, params: {params.yaml: 3}}}\n", "dvc.lock: a: `params` must be a mapping"),
        ('schema: "2.0"\nstages: {"a\\e[2J\\nb": 1}\n', "dvc.lock: a\\x1b[2J\\nb must be a mapping"),
        ("[1, 2", "dvc.lock is no whole YAML file"),
        ("3", "dvc.lock must be a mapping"),
        ("[" * 3000, "dvc.lock is no whole YAML file"),
        ("a: &a [*b]", "dvc.lock is no whole YAML file"),
        ("schema: !!python/object:os.system x", "dvc.lock is no whole YAML file"),
    ],
)
def test_read_locked_stages_what_is_no_lock_is_said_in_words(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "dvc.lock").write_text(text)
    if not said:
        assert read_locked_stages(tmp_path) == {}
        return
    with pytest.raises(StageError) as raised:
        read_locked_stages(tmp_path)
    assert said in str(raised.value)
    assert "\x1b" not in str(raised.value)


def test_read_locked_stages_without_the_file_or_of_no_text_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"dvc\.lock is missing"):
        read_locked_stages(tmp_path)
    (tmp_path / "dvc.lock").write_bytes(b"\xff\xfe")
    with pytest.raises(StageError, match=r"dvc\.lock cannot be read"):
        read_locked_stages(tmp_path)
    (tmp_path / "dvc.lock").unlink()
    (tmp_path / "dvc.lock").mkdir()
    with pytest.raises(StageError, match=r"dvc\.lock cannot be read"):
        read_locked_stages(tmp_path)


def test_read_locked_stages_cut_off_at_any_byte_gives_stages_or_words(tmp_path: Path) -> None:
    for length in range(len(LOCK)):
        (tmp_path / "dvc.lock").write_text(LOCK[:length])
        try:
            found = read_locked_stages(tmp_path)
        except StageError:
            continue
        assert set(found) <= {"train", "check", "tra", "chec"} | {LOCK[at:length].strip() for at in range(length)}
