"""`retune origin`: on files that gguf wrote here, and records made like the stages'."""

import json
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest

from stages.contracts.gguf import KEYS
from stages.core.files import sha256_file, write_json
from stages.gguf_export.provenance_keys import records_digest

BEFORE = ("fetch_data", "fetch_model", "merge", "redact", "train")
"""Stages before the export: as many as there are, one that somebody has added among them."""


def make_file(path: Path, **says: str) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("mine")
    for key, value in says.items():
        writer.add_string(KEYS[key], value)
    writer.add_tensor("w", np.ones((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_export_record(project: Path, file: Path, before: Sequence[str]) -> None:
    read = {"merged": {"path": "data/merged"}, **{stage: {"path": f"data/records/{stage}.json"} for stage in before}}
    written = {"files": {"path": "data/gguf", "files": {file.name: sha256_file(file)}}}
    write_json(project / "data/records/gguf.json", {"stage": "gguf", "inputs": read, "outputs": written})


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A project with records and one exported file, data/gguf/mine-q8_0.gguf."""
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "data/gguf").mkdir(parents=True)
    (tmp_path / "data/records").mkdir()
    for stage in BEFORE:
        write_json(tmp_path / f"data/records/{stage}.json", {"stage": stage})
    digest = records_digest(tmp_path / f"data/records/{stage}.json" for stage in BEFORE)
    file = make_file(tmp_path / "data/gguf/mine-q8_0.gguf", records=digest, kind="fine-tuned model")
    write_export_record(tmp_path, file, BEFORE)
    return tmp_path


def test_file_of_the_project_is_proven_whatever_its_name(made, retune):
    other = made / "x.gguf"
    other.write_bytes((made / "data/gguf/mine-q8_0.gguf").read_bytes())
    answer = retune("origin", "x.gguf", cwd=made)
    assert answer.returncode == 0, answer.stderr
    assert "PROVEN: the record of gguf has this sha256 as data/gguf/mine-q8_0.gguf" in answer.stdout
    assert "the records' own hash is the one in the file" in answer.stdout
    assert f"{KEYS['kind']}" in answer.stdout


def test_changed_file_is_contradicted(made, retune):
    file = made / "data/gguf/mine-q8_0.gguf"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    answer = retune("origin", str(file), cwd=made)
    assert answer.returncode == 1
    assert "CONTRADICTED: the record of gguf has another sha256 of data/gguf/mine-q8_0.gguf" in answer.stdout
    away = made / "x.gguf"
    away.write_bytes(bytes(content))
    answer = retune("origin", "x.gguf", cwd=made)
    assert answer.returncode == 1
    assert "CONTRADICTED: the record of gguf has no file with this sha256" in answer.stdout


def test_changed_file_without_a_hash_of_the_records_is_contradicted_in_its_place(made, retune):
    make_file(made / "data/gguf/mine-q8_0.gguf", kind="base alone")
    answer = retune("origin", "data/gguf/mine-q8_0.gguf", cwd=made)
    assert answer.returncode == 1
    assert "CONTRADICTED: the record of gguf has another sha256" in answer.stdout


@pytest.mark.parametrize("stage", ["redact", "train"])
def test_changed_record_is_contradicted(made, retune, stage):
    write_json(made / f"data/records/{stage}.json", {"stage": stage, "changed": True})
    answer = retune("origin", "data/gguf/mine-q8_0.gguf", cwd=made)
    assert answer.returncode == 1
    assert "the records' own hash is not the one in the file" in answer.stdout


def test_missing_record_is_named_and_proves_nothing(made, retune):
    (made / "data/records/redact.json").unlink()
    answer = retune("origin", "data/gguf/mine-q8_0.gguf", cwd=made)
    assert answer.returncode == 3
    assert "redact.json not among the records" in answer.stdout


def test_record_of_a_stage_that_is_not_in_the_hash_changes_nothing(made, retune):
    write_json(made / "data/records/evaluate.json", {"stage": "evaluate"})
    assert retune("origin", "data/gguf/mine-q8_0.gguf", cwd=made).returncode == 0


def test_export_record_that_names_no_record_proves_nothing(made, retune):
    file = made / "data/gguf/mine-q8_0.gguf"
    write_export_record(made, file, ())
    answer = retune("origin", str(file), cwd=made)
    assert answer.returncode == 3
    assert "what gguf read is not among the records" in answer.stdout


def test_export_record_that_leaves_one_record_out_is_contradicted(made, retune):
    file = made / "data/gguf/mine-q8_0.gguf"
    write_export_record(made, file, BEFORE[1:])
    answer = retune("origin", str(file), cwd=made)
    assert answer.returncode == 1
    assert "the records' own hash is not the one in the file" in answer.stdout


def test_file_of_another_project_or_without_records_is_not_proven(made, retune, tmp_path_factory):
    foreign = make_file(made / "foreign.gguf")
    answer = retune("origin", "foreign.gguf", "--json", cwd=made)
    assert answer.returncode == 3
    (found,) = json.loads(answer.stdout)
    assert found["proof"] == "none"
    assert found["sha256"] == sha256_file(foreign)
    assert "the file says nothing of Retune" in found["why"]
    other = make_file(made / "other.gguf", records="0" * 64)
    assert retune("origin", str(other), cwd=made).returncode == 3
    alone = tmp_path_factory.mktemp("alone")
    answer = retune("origin", str(other), cwd=alone)
    assert answer.returncode == 3
    assert "there are no records here" in answer.stdout
    assert retune("origin", str(other), "--records", str(made / "data/records"), cwd=alone).returncode == 3


def test_what_is_no_gguf_file_is_said(made, retune):
    (made / "broken.gguf").write_bytes((made / "data/gguf/mine-q8_0.gguf").read_bytes()[:60])
    for name in ("broken.gguf", "dvc.yaml", "missing.gguf"):
        answer = retune("origin", name, cwd=made)
        assert answer.returncode == 1
        assert answer.stderr.startswith(f"retune: {name} is ")
        assert "Traceback" not in answer.stderr
