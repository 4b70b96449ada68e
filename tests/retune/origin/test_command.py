"""`retune origin`: on files that gguf wrote here, and records made like the stages'."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from stages.contracts.gguf import KEYS
from stages.core.files import read_json, sha256_file, write_json
from stages.gguf_export.provenance_keys import records_digest
from tests.locks import write_lock

BEFORE = ("fetch_data", "fetch_model", "merge", "redact", "train")
"""Stages before the export: as many as there are, one that somebody has added among them."""
OUTS = ["data/gguf", "data/records/gguf.json"]


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


def make_record(stage: str, read: Sequence[str] = (), **outputs: Path) -> dict[str, Any]:
    inputs = {Path(path).stem: {"path": path, "sha256": "0" * 64} for path in read}
    written = {
        key: {"path": f"data/{key}", "sha256": "0" * 64, "files": {file.name: sha256_file(file)}}
        for key, file in outputs.items()
    }
    return {"stage": stage, "code": {}, "environment": {}, "params": {}, "inputs": inputs, "outputs": written}


def write_export_record(project: Path, file: Path, before: Sequence[str]) -> None:
    """The record of gguf, and the dvc.lock that knows it."""
    read = ["data/merged", *(f"data/records/{stage}.json" for stage in before)]
    write_json(project / "data/records/gguf.json", make_record("gguf", read, gguf=file))
    write_lock(project, {stage: [f"data/records/{stage}.json"] for stage in BEFORE} | {"gguf": OUTS})


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A project with records and one exported file, data/gguf/mine-q8_0.gguf."""
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "data/gguf").mkdir(parents=True)
    (tmp_path / "data/records").mkdir()
    for stage in BEFORE:
        write_json(tmp_path / f"data/records/{stage}.json", make_record(stage))
    digest = records_digest(tmp_path / f"data/records/{stage}.json" for stage in BEFORE)
    file = make_file(tmp_path / "data/gguf/mine-q8_0.gguf", records=digest, kind="fine-tuned model")
    write_export_record(tmp_path, file, BEFORE)
    return tmp_path


def test_file_of_the_project_is_proven_whatever_its_name(made, retune):
    other = made / "x.gguf"
    other.write_bytes((made / "data/gguf/mine-q8_0.gguf").read_bytes())
    answer = retune("origin", "x.gguf", cwd=made)
    assert answer.returncode == 0, answer.stderr
    assert (
        "PROVEN by what lies here alone: the record of gguf has this sha256 as data/gguf/mine-q8_0.gguf"
        in answer.stdout
    )
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
    assert "CONTRADICTED: no record has a file with this sha256" in answer.stdout


def test_changed_file_without_a_hash_of_the_records_is_contradicted_in_its_place(made, retune):
    make_file(made / "data/gguf/mine-q8_0.gguf", kind="base alone")
    answer = retune("origin", "data/gguf/mine-q8_0.gguf", cwd=made)
    assert answer.returncode == 1
    assert "CONTRADICTED: the record of gguf has another sha256" in answer.stdout


@pytest.mark.parametrize("stage", ["redact", "train"])
def test_changed_record_is_contradicted(made, retune, stage):
    write_json(made / f"data/records/{stage}.json", {**make_record(stage), "params": {"changed": True}})
    answer = retune("origin", "data/gguf/mine-q8_0.gguf", cwd=made)
    assert answer.returncode == 1
    assert "the records' own hash is not the one in the file" in answer.stdout


def test_missing_record_is_named_and_proves_nothing(made, retune):
    (made / "data/records/redact.json").unlink()
    answer = retune("origin", "data/gguf/mine-q8_0.gguf", cwd=made)
    assert answer.returncode == 3
    assert "redact.json not among the records" in answer.stdout


@pytest.mark.parametrize("name", ["recs", "records", "data/old"])
def test_copied_records_prove_the_same_whatever_their_folder_is_called(made, retune, name):
    shutil.copytree(made / "data/records", made / name, dirs_exist_ok=True)
    shutil.move(made / "data/gguf/mine-q8_0.gguf", made / "x.gguf")
    # the output itself is gone, and no cache has its listing
    assert retune("origin", "x.gguf", "--records", name, "--lock", "dvc.lock", cwd=made).returncode == 3
    shutil.copy(made / "x.gguf", made / "data/gguf/mine-q8_0.gguf")
    answer = retune("origin", "x.gguf", "--records", name, "--lock", "dvc.lock", cwd=made)
    assert answer.returncode == 0, answer.stdout
    assert "the records' own hash is the one in the file" in answer.stdout
    assert "\n  ran  " not in answer.stdout


def test_record_of_a_stage_that_is_not_in_the_hash_changes_nothing(made, retune):
    write_json(made / "data/records/evaluate.json", make_record("evaluate"))
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


def commit(root: Path) -> str:
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.invalid"]
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    subprocess.run(["git", "add", "dvc.lock"], cwd=root, check=True)
    subprocess.run([*git, "commit", "-qm", "lock"], cwd=root, check=True)
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, check=True, capture_output=True, text=True).stdout


def links_of(answer: subprocess.CompletedProcess[str]) -> dict[str, str]:
    (found,) = json.loads(answer.stdout)
    return {link["name"]: link["state"] for link in found["links"]}


def test_committed_lock_is_the_last_link(made, retune):
    head = commit(made)
    answer = retune("origin", "data/gguf/mine-q8_0.gguf", cwd=made)
    assert answer.returncode == 0
    assert "PROVEN: the record" in answer.stdout
    assert f"is in commit {head[:12]}" in answer.stdout


def test_another_run_of_the_same_bytes_is_in_the_commit_too(made, retune):
    (made / "data/execution").mkdir()
    outs = {"gguf": [*OUTS, "data/execution/gguf.json"]}
    for seconds in ("1", "2"):
        (made / "data/execution/gguf.json").write_text(seconds)
        write_lock(made, outs)
        if seconds == "1":
            commit(made)
    answer = retune("origin", "data/gguf/mine-q8_0.gguf", cwd=made)
    assert answer.returncode == 0, answer.stdout
    assert "all but its execution record, which is of another run) is in commit" in answer.stdout


def test_stash_is_no_commit(made, retune):
    locked = (made / "dvc.lock").read_text()
    (made / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    commit(made)
    (made / "dvc.lock").write_text(locked)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.invalid"]
    subprocess.run([*git, "stash", "-q"], cwd=made, check=True)
    (made / "dvc.lock").write_text(locked)
    answer = retune("origin", "data/gguf/mine-q8_0.gguf", cwd=made)
    assert "PROVEN by what lies here alone" in answer.stdout
    assert "no commit has that entry" in answer.stdout


def test_file_that_nobody_exported_is_not_proven_by_an_edited_record(made, retune):
    commit(made)
    record = made / "data/records/gguf.json"
    forged = make_file(made / "forged.gguf", records=read_said_hash(made), kind="fine-tuned model")
    edited = read_json(record)
    edited["outputs"]["gguf"]["files"]["forged.gguf"] = sha256_file(forged)
    write_json(record, edited)
    answer = retune("origin", "forged.gguf", cwd=made)
    assert answer.returncode == 3
    assert "PROVEN" not in answer.stdout.replace("not proven", "")
    assert "is not the one that dvc.lock names, so it proves nothing" in answer.stdout
    # and with the lock edited, too: the commit has other outputs for the same inputs
    write_lock(made, {stage: [f"data/records/{stage}.json"] for stage in BEFORE} | {"gguf": OUTS})
    answer = retune("origin", "forged.gguf", "--json", cwd=made)
    assert answer.returncode == 1
    assert links_of(answer)["git"] == "contradicted"


def read_said_hash(made: Path) -> str:
    return records_digest(made / f"data/records/{stage}.json" for stage in BEFORE)


def test_file_whose_md5_the_lock_does_not_have_is_contradicted(made, retune):
    file = made / "data/gguf/mine-q8_0.gguf"
    locked = (made / "dvc.lock").read_text()
    make_file(file, records=read_said_hash(made), kind="fine-tuned model", version="2")
    write_export_record(made, file, BEFORE)
    md5s = [line.split()[-1] for line in locked.splitlines() if ".dir" in line]
    now = (made / "dvc.lock").read_text()
    (made / "dvc.lock").write_text(
        now.replace(next(line.split()[-1] for line in now.splitlines() if ".dir" in line), md5s[0])
    )
    answer = retune("origin", str(file), "--json", cwd=made)
    assert links_of(answer)["locked_file"] == "contradicted", "the folder's hash is another one"
    assert answer.returncode == 1
    # nor is a file proven when the rest of its folder is away
    (made / "away.gguf").write_bytes(file.read_bytes())
    file.unlink()
    answer = retune("origin", "away.gguf", "--json", cwd=made)
    assert links_of(answer)["locked_file"] == "unknown"
    assert answer.returncode == 3


def test_lock_without_the_record_or_no_lock_at_all_proves_nothing(made, retune):
    write_lock(made, {"gguf": ["data/gguf"]})
    answer = retune("origin", "data/gguf/mine-q8_0.gguf", cwd=made)
    assert answer.returncode == 3
    assert "dvc.lock has no record of gguf" in answer.stdout
    (made / "dvc.lock").unlink()
    answer = retune("origin", "data/gguf/mine-q8_0.gguf", cwd=made)
    assert answer.returncode == 3
    assert "there is no dvc.lock" in answer.stdout


def test_outside_of_the_project_records_and_lock_prove(made, retune, tmp_path_factory):
    alone = tmp_path_factory.mktemp("auditor")
    shutil.copytree(made / "data/records", alone / "kept")
    shutil.copy(made / "dvc.lock", alone / "lock.yaml")
    shutil.copy(made / "data/gguf/mine-q8_0.gguf", alone / "x.gguf")
    answer = retune("origin", "x.gguf", "--records", "kept", cwd=alone)
    assert answer.returncode == 3
    # the folder's name is part of what gguf read
    (alone / "kept").rename(alone / "records")
    answer = retune("origin", "x.gguf", "--records", "records", "--lock", "lock.yaml", cwd=alone)
    assert answer.returncode == 3, "what dvc.lock's hash of data/gguf is of is not here"
    assert "held against nothing" in answer.stdout
    shutil.copytree(made / "data/gguf", alone / "data/gguf")
    answer = retune("origin", "x.gguf", "--records", "records", "--lock", "lock.yaml", cwd=alone)
    assert answer.returncode == 0, answer.stdout


@pytest.mark.parametrize(
    ("bend", "said"),
    [
        (lambda text: text[: len(text) // 2], "is no whole JSON file"),
        (lambda text: text.replace("{", '{"written_by": "a newer one", ', 1), "which no record has here"),
        (lambda text: text.replace('"stage": "gguf"', '"stage": "merge"'), "is of the stage merge"),
        (lambda text: text.replace('"outputs"', '"outs"'), "is no whole record"),
        (lambda _: "[" * 100_000, "is no whole JSON file"),
    ],
)
def test_record_that_cannot_be_believed_is_said_and_proves_nothing(made, retune, bend, said):
    record = made / "data/records/gguf.json"
    record.write_text(bend(record.read_text()))
    write_lock(made, {stage: [f"data/records/{stage}.json"] for stage in BEFORE} | {"gguf": OUTS})
    answer = retune("origin", "data/gguf/mine-q8_0.gguf", cwd=made)
    assert answer.returncode == 3, answer.stdout
    assert said in answer.stdout
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("text", ["stages: {gguf: {cmd", "a: 1", "stages: 3", "", "stages: {gguf: 7}", "\0"])
def test_lock_that_is_none_is_said(made, retune, text):
    (made / "dvc.lock").write_text(text)
    answer = retune("origin", "data/gguf/mine-q8_0.gguf", cwd=made)
    assert answer.returncode == 1
    assert answer.stderr.startswith("retune: dvc.lock ")
    assert "Traceback" not in answer.stderr
    assert "PROVEN" not in answer.stdout


def test_name_of_a_file_and_metadata_forge_no_line(made, retune):
    name = "x\n  PROVEN: by me\x1b[2K\N{RIGHT-TO-LEFT OVERRIDE}.gguf"
    make_file(made / name, version="1\n  PROVEN: too\x9b2J")
    answer = retune("origin", name, cwd=made)
    assert answer.returncode == 3
    assert not any(line.strip().startswith("PROVEN") for line in answer.stdout.splitlines())
    assert "\x1b" not in answer.stdout
    assert "\x9b" not in answer.stdout
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in answer.stdout
    answer = retune("origin", name, "--json", cwd=made)
    assert answer.stdout.isascii()
    missing = retune("origin", "no\nretune: all is well", cwd=made)
    assert missing.stderr.count("\n") == 1


def test_broken_metadata_is_said_in_words(made):
    from retune.origin.metadata import read_said
    from stages.core.errors import StageError

    content = (made / "data/gguf/mine-q8_0.gguf").read_bytes()
    for at in range(8, 300):
        for byte in (0x00, 0x7F, 0xFF):
            file = made / "bent.gguf"
            file.write_bytes(content[:at] + bytes([byte]) + content[at + 1 :])
            try:
                read_said(file)
            except StageError as error:
                assert "is no whole GGUF file" in str(error)  # noqa: PT017


def test_lock_that_names_another_md5_of_the_file_contradicts(made):
    from retune.origin.links import check_locked_file, find_record
    from retune.verify.digests import hash_files

    file = made / "data/gguf/mine-q8_0.gguf"
    digests = hash_files([file], "hashing")[0][file]
    found, link = find_record(file, digests, made / "data/records")
    assert found is not None
    assert link.state == "proven"
    assert check_locked_file(found, digests, {found.name: digests.md5}).state == "proven"
    assert check_locked_file(found, digests, {found.name: "0" * 32}).state == "contradicted"
    assert check_locked_file(found, digests, {}).state == "contradicted"
    assert check_locked_file(found, digests, None).state == "unknown"


def test_weights_of_the_adapter_are_proven_by_the_record_of_train(made, retune):
    (made / "data/adapter").mkdir()
    weights = made / "data/adapter/adapter_model.safetensors"
    weights.write_bytes(b"weights")
    write_json(made / "data/records/train.json", make_record("train", adapter=weights))
    write_lock(made, {"train": ["data/adapter", "data/records/train.json"]})
    answer = retune("origin", str(weights), cwd=made)
    assert answer.returncode == 0, answer.stdout
    assert "the record of train has this sha256 as data/adapter/adapter_model.safetensors" in answer.stdout
    weights.write_bytes(b"Weights")
    assert retune("origin", str(weights), cwd=made).returncode == 1
