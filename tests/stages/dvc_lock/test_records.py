import json
from pathlib import Path
from typing import Any

import pytest

from stages.core.project_code import md5
from stages.dvc_lock.lock import parse_lock, parse_stage, read_locked_stages
from stages.dvc_lock.records import compare_asked, compare_entry, compare_records, parse_run, read_records
from stages.reporting.lock_check import check_asked
from tests.execution_records import put_execution

COMMAND = "python -m stages.train --base data/base --adapter data/adapter --environment e.txt --record data/records/train.json"
RECORD: dict[str, Any] = {
    "stage": "train",
    "code": {"stages/train.py": "0" * 64},
    "environment": {},
    "params": {"learning_rate": 0.002, "steps": 3, "lora": {"r": 8, "target_modules": ["q", "k"]}},
    "inputs": {"base": {"path": "data/base", "sha256": "1" * 64}},
    "outputs": {"adapter": {"path": "data/adapter", "sha256": "2" * 64, "files": {"a": "3" * 64}}},
}


def entry(cmd: str = COMMAND, **params: Any) -> dict[str, Any]:
    return {"cmd": cmd, "params": {"params.yaml": {"train": {**RECORD["params"], **params}}}}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A record, and a dvc.lock that names it."""
    (tmp_path / "data/records").mkdir(parents=True)
    write(tmp_path, entry(), json.dumps(RECORD))
    return tmp_path


def write(root: Path, locked: dict[str, Any], record: str) -> None:
    (root / "data/records/train.json").write_text(record)
    outs = [{"path": "data/records/train.json", "md5": md5(record.encode())}]
    text = json.dumps({"schema": "2.0", "stages": {"train": {**locked, "outs": outs}}})
    (root / "dvc.lock").write_text(text)


def said(root: Path) -> list[tuple[str, str]]:
    return [(found.kind, found.says) for found in compare_records(root, "data/records")]


def test_compare_records_of_an_honest_run_finds_nothing(project: Path) -> None:
    assert said(project) == []
    write(project, entry(learning_rate=2e-3, steps=3.0), json.dumps(RECORD))
    assert said(project) == []


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"learning_rate": 1e-4}, "train.learning_rate: the record says 0.002, dvc.lock says 0.0001"),
        ({"lora": {"r": 16, "target_modules": ["q", "k"]}}, "train.lora.r: the record says 8, dvc.lock says 16"),
        (
            {"lora": {"r": 8, "target_modules": ["q"]}},
            'train.lora.target_modules: the record says ["q", "k"], dvc.lock says ["q"]',
        ),
        ({"lora": None}, 'train.lora: the record says {"r": 8, "target_modules": ["q", "k"]}, dvc.lock says null'),
        ({"steps": True}, "train.steps: the record says 3, dvc.lock says true"),
        ({"steps": "3\x1b[31m\n"}, 'train.steps: the record says 3, dvc.lock says "3\\u001b[31m\\n"'),
    ],
)
def test_compare_records_names_each_param_that_dvc_lock_has_other(
    project: Path, params: dict[str, Any], words: str
) -> None:
    write(project, entry(**params), json.dumps(RECORD))
    assert said(project) == [("params", words)]


def test_compare_entry_a_param_that_the_record_lacks_is_new_and_one_that_the_lock_lacks_is_wrong() -> None:
    assert list(compare_entry(RECORD, parse_stage("dvc.lock", "train", entry(new=0.0)))) == []
    short = entry()
    del short["params"]["params.yaml"]["train"]["steps"]
    (found,) = compare_entry(RECORD, parse_stage("dvc.lock", "train", short))
    assert found.says == "train.steps: the record says 3, dvc.lock says nothing"
    (found,) = compare_entry(RECORD, parse_stage("dvc.lock", "train", {"cmd": COMMAND}))
    assert (found.kind, found.field) == ("params", "train")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("data/base", "data/other", 'train --base: the record says "data/base", dvc.lock says "data/other"'),
        ("--base data/base", "", 'train --base: the record says "data/base", dvc.lock says nothing'),
        (" --rec", " --more x --rec", 'train --more: the record says nothing, dvc.lock says "x"'),
        ("--adapter data/adapter", "--adapter 'data/adapter", "train --"),
    ],
)
def test_compare_records_names_what_of_the_command_is_another(project: Path, old: str, new: str, words: str) -> None:
    write(project, entry(COMMAND.replace(old, new)), json.dumps(RECORD))
    found = said(project)
    assert found
    assert {kind for kind, _ in found} == {"command"}
    assert words in found[0][1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "data/records/train.json is no whole JSON file: it is cut off or damaged"),
        (json.dumps(RECORD)[:-10], "data/records/train.json is no whole JSON file"),
        ("[" * 100_000, "data/records/train.json is no whole JSON file"),
        ("\ud800", "data/records/train.json is no whole JSON file"),
        ("[]", "data/records/train.json is no record: it must be a mapping"),
        ("{}", "data/records/train.json is no whole record: `code`, `environment`,"),
        (json.dumps({**RECORD, "newer": 1}), "data/records/train.json has `newer`, which no record has here"),
        (json.dumps({**RECORD, "a\x1b[2J\n": 1}), "has `a\\x1b[2J\\n`, which"),
        (json.dumps({**RECORD, "params": 3}), "data/records/train.json: `params` must be a mapping"),
        (json.dumps({**RECORD, "inputs": {"base": 3}}), "`inputs.base` must have a path, a sha256"),
        (json.dumps({**RECORD, "outputs": {"a": {"path": "x", "sha256": "y"}}}), "`outputs.a` must have a path"),
        (json.dumps({**RECORD, "stage": "merge"}), 'the record of train says that it is of "merge"'),
        (json.dumps({**RECORD, "stage": {"a": 1}}), "the record of train says that it is of"),
    ],
)
def test_compare_records_what_is_no_record_is_said_in_words(project: Path, text: str, words: str) -> None:
    (project / "data/records/train.json").write_text(text, errors="surrogatepass")
    found = said(project)
    assert {kind for kind, _ in found} == {"record"}
    assert any(words in says for _, says in found)


def test_compare_records_another_record_than_the_lock_names_and_one_that_is_gone(project: Path) -> None:
    (project / "data/records/train.json").write_text(json.dumps(RECORD) + "\n")
    assert said(project) == [("record", "data/records/train.json is not the record that dvc.lock names")]
    (project / "data/records/train.json").unlink()
    assert said(project) == [("record", "data/records/train.json, which dvc.lock names, is not there")]


def test_compare_records_of_a_stage_that_the_lock_does_not_know_proves_nothing(project: Path) -> None:
    (project / "data/records/other.json").write_text(json.dumps({**RECORD, "stage": "other"}))
    assert said(project) == [
        (
            "not in lock",
            "data/records/other.json: dvc.lock does not know the stage other, so its record proves nothing",
        )
    ]


def test_parse_run_knows_the_stage_by_its_command() -> None:
    assert parse_run("x", entry()).name == "train"
    assert parse_run("x", {"cmd": "echo"}).name == ""


def test_read_records_gives_all_by_stage(project: Path) -> None:
    assert read_records(project / "data/records") == {"train": RECORD}
    assert parse_lock({"schema": "2.0"}) == {}


FLOORS = {"min_loss_gain": 0.1, "languages": None, "gguf": {"q8_0": {"max_kl_divergence": 0.1}}}
ASKED = {"audit.min_loss_gain": 0.1, "audit.languages": None, "audit.gguf.q8_0.max_kl_divergence": 0.1}


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """The execution record of a stage without a record, and a dvc.lock that names it."""
    told = {key: {"asked": value, "ran": value, "state": "equal", "why": ""} for key, value in ASKED.items()}
    put_execution(tmp_path, "audit", asked_and_ran={**told, "runtime.log_level": {"asked": "info"}})
    lock_floors(tmp_path, FLOORS)
    return tmp_path


def lock_floors(root: Path, floors: dict[str, Any], digest: str = "") -> None:
    path = "data/execution/audit.json"
    outs = [{"path": path, "md5": digest or md5((root / path).read_bytes())}]
    cmd = f"python -m stages.audit --audit data/audit --execution {path}"
    stage = {"cmd": cmd, "params": {"params.yaml": {"audit": floors, "train": {"steps": 3}}}, "outs": outs}
    (root / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": {"audit": stage}}))


def told_of_floors(root: Path) -> list[str]:
    return [one.says for one in compare_asked(root, read_locked_stages(root)["audit"])]


def test_compare_asked_names_what_dvc_lock_has_otherwise_than_the_run_was_asked(judged: Path) -> None:
    assert told_of_floors(judged) == []
    lock_floors(judged, {**FLOORS, "min_loss_gain": 0.5})
    assert told_of_floors(judged) == ["audit.min_loss_gain: audit was asked 0.1, dvc.lock says 0.5"]
    lock_floors(judged, {**FLOORS, "gguf": {}})
    assert told_of_floors(judged) == ["audit.gguf.q8_0.max_kl_divergence: audit was asked 0.1, dvc.lock says nothing"]


def test_compare_asked_says_nothing_by_a_record_of_another_run(judged: Path) -> None:
    lock_floors(judged, {**FLOORS, "min_loss_gain": 0.5}, digest="0" * 32)
    assert told_of_floors(judged) == []
    lock_floors(judged, {**FLOORS, "max_seen_answers": None})  # new since then: `retune accept`'s
    assert told_of_floors(judged) == []
    (judged / "data/execution/audit.json").write_text("{")
    lock_floors(judged, {**FLOORS, "min_loss_gain": 0.5})
    assert told_of_floors(judged) == []


def test_the_gate_refuses_a_verdict_that_dvc_lock_notes_down_by_other_floors(judged: Path) -> None:
    assert check_asked(judged, ("audit", "report")).check["passed"]
    lock_floors(judged, {**FLOORS, "min_loss_gain": 0.5})
    found = check_asked(judged, ("audit", "report"))
    assert not found.check["passed"]
    assert [one.field for one in found.differences] == ["audit.min_loss_gain"]
