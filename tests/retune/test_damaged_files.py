"""Files that are cut off, deep or of another shape end a command in one sentence that names them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from flows.snapshot import take_snapshot
from retune.chat.gguf_files import choose_file, read_stop_texts
from retune.preview import read_source_names
from retune.project import refuse_broken_yaml
from retune.use.presets import write_preset
from retune.yaml_files import read_yaml
from stages.contracts.tokens import SCHEMA, read_tokens
from stages.core.errors import StageError
from stages.core.params import read_params
from stages.models.base_model import embedding_plan, read_config
from tests.arrow_files import write_arrow

DEEP = b"[" * 20_000
NO_OBJECT = [b"", b"[]", b'{"a": ', b"\xff\xfe{", DEEP]


@pytest.mark.parametrize(
    "content",
    [*NO_OBJECT, b'{"files": null}', b'{"stops_by": "token", "stop": []}', b'{"files": {}, "stop": []}',
     b'{"files": {}, "stop": [], "stops_by": "token", "lora": "x"}'],
)  # fmt: skip
def test_checks_of_the_gguf_files_that_are_damaged_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data/gguf").mkdir(parents=True)
    (tmp_path / "data/gguf/checks.json").write_bytes(content)
    with pytest.raises(StageError, match=r"gguf/checks\.json .*`retune verify`"):
        choose_file(tmp_path, None)
    with pytest.raises(StageError, match=r"gguf/checks\.json .*`retune verify`"):
        read_stop_texts(tmp_path / "data/gguf/a.gguf")


@pytest.mark.parametrize("content", [*NO_OBJECT, b"{}", b'{"sources": [1]}'])
def test_sources_that_are_damaged_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/source.json").write_bytes(content)
    with pytest.raises(StageError, match=r"raw/source\.json .*`retune verify`"):
        read_source_names(tmp_path)


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_tokens_that_are_cut_off_are_named(tmp_path: Path, keep: float) -> None:
    ids = [[1] * 100] * 50
    columns = {"row_id": [f"{number:032x}" for number in range(50)], "input_ids": ids, "labels": ids}
    path = tmp_path / "train.arrow"
    write_arrow(path, pa.table(columns, schema=SCHEMA))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(ValueError, match=r"data/tokens/train\.arrow is cut off or damaged: `retune restore template`"):
        read_tokens(path)


@pytest.mark.parametrize(
    "content",
    [*NO_OBJECT, b'{"vocabulary_size": 9, "control_tokens": null}', b'{"vocabulary_size": 9, "control_tokens": {}}',
     b'{"control_tokens": {"added": {}}}'],
)  # fmt: skip
def test_summary_of_tokens_that_is_damaged_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_text('{"vocab_size": 9}')
    (tmp_path / "summary.json").write_bytes(content)
    with pytest.raises(StageError, match=r"summary\.json .*`retune verify`"):
        embedding_plan(tmp_path, tmp_path)


@pytest.mark.parametrize("content", [*NO_OBJECT, b'{"rope_parameters": "x"}', b'{"text_config": {"rope_scaling": []}}'])
def test_config_that_is_damaged_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(StageError, match=r"config\.json .*`retune verify`"):
        read_config(tmp_path)


@pytest.mark.parametrize("content", [b"a: \xff", DEEP])
def test_yaml_that_is_none_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    (tmp_path / "dvc.yaml").write_bytes(content)
    readers: list[Callable[[Path], Any]] = [read_params, read_yaml, lambda one: write_preset(tmp_path, str(one))]
    for read in readers:
        with pytest.raises(StageError, match=r"mine\.yaml"):
            read(path)
    with pytest.raises(ValueError, match=r"dvc\.yaml"):
        refuse_broken_yaml(tmp_path)


def test_what_the_machine_refuses_while_a_snapshot_is_taken_is_named(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / ".retune").write_text("no folder")
    with pytest.raises(ValueError, match=r"^the run cannot begin: \.retune/snapshot.*: .*run again$"):
        take_snapshot(tmp_path, print)


def test_dvc_yaml_that_is_deep_ends_commands_in_a_sentence(retune: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_bytes(DEEP)
    lock = {"schema": "2.0", "stages": {"a": {"cmd": "a", "outs": [{"path": "x", "hash": "md5", "md5": "0" * 32}]}}}
    (tmp_path / "dvc.lock").write_text(json.dumps(lock))
    (tmp_path / ".dvc").mkdir()
    for command in ("verify", "restore", "why", "run"):
        done = retune(command, cwd=tmp_path)
        assert done.returncode == (2 if command == "verify" else 1), (command, done.stderr)
        assert "Traceback" not in done.stderr
        assert "dvc.yaml" in done.stdout + done.stderr


@pytest.mark.parametrize("content", ["", "null", "{}", "stages: {}"])
def test_dvc_yaml_without_a_stage_is_not_told_as_up_to_date(
    retune: Callable[..., Any], tmp_path: Path, content: str
) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
    (tmp_path / "dvc.yaml").write_text(content, encoding="utf-8")
    done = retune("why", cwd=tmp_path)
    assert done.returncode == 1
    assert "dvc.yaml" in done.stderr
    assert "Traceback" not in done.stderr
