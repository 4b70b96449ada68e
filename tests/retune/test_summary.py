import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from retune.summary import find_changed_sections, lines, list_exported
from stages.core.files import write_json


def test_changed_since_names_the_sections_that_are_not_those_of_the_run(tmp_path: Path) -> None:
    record = {"stage": "", "code": {}, "environment": {}, "inputs": {}, "outputs": {}, "params": {"steps": 3}}
    for stage in ("train", "merge"):
        write_json(tmp_path / "records" / f"{stage}.json", record)
    parameters = tmp_path / "params.yaml"
    parameters.write_text("train: {steps: 4}\nmerge: {steps: 3}\nruntime: {workers: 9}\n")
    assert find_changed_sections(tmp_path, parameters) == (["train"], [])
    write_json(tmp_path / "records" / "gguf.json", record | {"newer": 1})
    (tmp_path / "records" / "merge.json").write_text('{"params": {"st')
    changed, unread = find_changed_sections(tmp_path, parameters)
    assert changed == ["train"]
    assert [said.removeprefix(f"{tmp_path}/records/")[:20] for said in unread] == [
        "gguf.json has `newer",
        "merge.json is no whol"[:20],
    ]


def test_lines_say_what_to_do_next_where_there_is_something_to_talk_to() -> None:
    rows = {"raw": 1014, "train": 7, "heldout": 2, "rejected": 0, "repeated": 1000, "near_heldout": 5, "excluded": 0}
    found = {
        "rows": rows, "rejected_by_template": 0, "training": {"says": "3 of 7 training conversations were trained"}, "loss": [2.0, 1.0], "answers_right": [None, None],
        "files": {"data/gguf/a.gguf": 5}, "passed": True, "verdict": "passed", "report": "r", "report_of_verdict": True, "changed_since": [],
        "gone": [], "earlier": [], "execution": [], "unreadable": [], "flags": {"email_address": 3}, "seen": {"says": "1 of 2 stand in training"},
    }  # fmt: skip
    told = dict(lines(found))
    assert told["rows"] == "1,014 in, 9 kept (2 held out), 0 rejected, 1,000 repeated, 5 near held-out ones"
    assert told["flagged"].startswith("3 email_address (")
    assert told["held out"] == "1 of 2 stand in training"
    assert "`retune chat`" in dict(lines(found))["next"]
    assert "`retune push`" in dict(lines(found))["next"]
    assert "`retune push`" not in dict(lines({**found, "passed": False}))["next"]
    assert "next" not in dict(lines({**found, "files": {"data/adapter/adapter_model.safetensors": 5}}))
    for lost in ({"gone": ["merge"]}, {"files": {"data/adapter/adapter_model.safetensors": None}}):
        told = dict(lines({**found, **lost}))
        assert "`retune restore` brings them back" in told["note"]
        assert "next" not in told


def test_lines_mark_what_is_of_an_earlier_run_and_offer_no_model_of_two_runs() -> None:
    rows = {"raw": 10, "train": 7, "heldout": 2, "rejected": 1, "repeated": 0, "near_heldout": 0, "excluded": 0}
    files = {"data/gguf/a.gguf": 5, "data/adapter/adapter_model.safetensors": 5, "data/merged/model.safetensors": 5}
    found = {
        "rows": rows, "rejected_by_template": 3, "training": {"says": "7 were trained"}, "loss": [2.0, 1.0], "answers_right": [0.1, 0.2],
        "files": files, "passed": None, "verdict": "none", "report": "r", "report_of_verdict": False, "changed_since": [], "gone": [],
        "execution": [], "unreadable": [], "flags": {"email_address": 3}, "seen": {"says": "1 of 2"}, "earlier": ["evaluate", "merge", "gguf"],
    }  # fmt: skip
    told = lines(found)
    marked = [value.split(" ")[0] for _, value in told if value.endswith(" (of an earlier run)")]
    assert marked == ["2.0000", "10.0%", "data/gguf/a.gguf", "data/merged/model.safetensors"]
    assert dict(told)["note"].startswith("of an earlier run: evaluate, merge, gguf (")
    assert "next" not in dict(told)
    assert "next" in dict(lines({**found, "earlier": ["audit", "report", "gate"]}))
    before = dict(lines({**found, "earlier": ["standardize", "template", "train"]}))
    assert before["rows"].startswith("10 in, 9 kept (2 held out), 1 rejected (of an earlier run); what the template")
    assert all(before[name].endswith("(of an earlier run)") for name in ("flagged", "held out", "training"))
    gone = [value for name, value in lines({**found, "gone": ["merge"], "earlier": ["gguf"]}) if name == "note"]
    assert gone[1].endswith("(merge): `dvc repro` makes them")


def test_exported_files_are_those_of_the_model_and_the_adapter(tmp_path: Path) -> None:
    assert list_exported(tmp_path) == []
    checks = {"files": {"a-q8_0.gguf": {}}, "lora": {"file": "a-lora-f16.gguf", "over": {"file": "a-base-q8_0.gguf"}}}
    write_json(tmp_path / "gguf/checks.json", checks)
    assert list_exported(tmp_path) == ["a-q8_0.gguf", "a-lora-f16.gguf"]
    write_json(tmp_path / "gguf/checks.json", {**checks, "lora": None})
    assert list_exported(tmp_path) == ["a-q8_0.gguf"]


@pytest.mark.parametrize("name", ["messages/summary.json", "tokens/summary.json", "evaluation/metrics.json"])
@pytest.mark.parametrize(
    ("text", "said"), [('{"raw": 1', "{name} is no whole JSON file"), ("[]", "as this version of Retune writes them")]
)
def test_figures_that_are_damaged_are_named_and_never_a_traceback(
    retune: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, name: str, text: str, said: str
) -> None:
    for file in ("messages/summary.json", "tokens/summary.json", "evaluation/metrics.json"):
        write_json(tmp_path / "data" / file, {})
    (tmp_path / "data" / name).write_text(text)
    (tmp_path / "params.yaml").write_text("train: {}\n")
    done = retune("summary", cwd=tmp_path)
    assert done.returncode == 1
    assert said.format(name=f"data/{name}") in done.stderr
    assert "Traceback" not in done.stderr
