import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retune.verdict import NO_VERDICT, find_verdict, is_of_verdict, warn_of
from stages.core.files import read_json, write_json, write_text
from tests.locks import write_lock
from tests.verdict_files import FIGURES, write_verdict

RECORDS = ("records/train.json", "records/merge.json", "records/gguf.json")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with figures and records, judged and passed."""
    for name in (*FIGURES, *RECORDS):
        write_text(tmp_path / "data" / name, f'{{"of": "{name}"}}\n')
    write_verdict(tmp_path)
    return tmp_path


def change(path: str, edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def apply(root: Path) -> None:
        value = read_json(root / path)
        edit(value)
        write_json(root / path, value)

    return apply


def test_verdict_stands_for_the_figures_that_it_judged(root: Path) -> None:
    verdict = find_verdict(root)
    assert (verdict.passed, verdict.in_words()) == (True, "passed")
    assert is_of_verdict(root / "data/report/index.html", verdict)
    assert warn_of(root, root / "data/gguf/a.gguf") is None


def test_verdict_that_says_no_is_told_with_its_reasons(root: Path) -> None:
    write_verdict(root, passed=False)
    verdict = find_verdict(root)
    assert (verdict.passed, verdict.reasons) == (False, ["loss_gain: the held-out loss fell by 0.1"])
    assert warn_of(root, root / "data/gguf/a.gguf") == (
        "this model did not pass: loss_gain: the held-out loss fell by 0.1"
    )


@pytest.mark.parametrize("name", [*FIGURES, *RECORDS])
@pytest.mark.parametrize("what", ["other", "gone"])
def test_figures_that_are_others_or_gone_have_no_verdict(root: Path, name: str, what: str) -> None:
    path = root / "data" / name
    if what == "gone":
        path.unlink()
    else:
        path.write_text("{}")
    verdict = find_verdict(root)
    said = "not there" if what == "gone" else "another than was judged"
    assert verdict.passed is None
    assert verdict.in_words() == f"{NO_VERDICT}: data/{name} is {said} (`dvc repro` judges them)"
    assert not is_of_verdict(root / "data/report/index.html", verdict)
    assert str(warn_of(root, root / "data/gguf/a.gguf")).startswith(NO_VERDICT)


def test_run_that_trained_and_broke_the_export_leaves_no_verdict(root: Path) -> None:
    """What DVC leaves: the new adapter with its record, nothing of the stage that failed, and the old page and gate.json."""
    for name in ("adapter/ledger.parquet", "adapter/steps.jsonl", "records/train.json"):
        (root / "data" / name).write_text("a longer training")
    for name in ("gguf/checks.json", "records/gguf.json"):
        (root / "data" / name).unlink()
    assert read_json(root / "data/gate.json")["passed"] is True
    assert find_verdict(root).reasons == [
        "data/gguf/checks.json, data/records/gguf.json are not there",
        "data/adapter/ledger.parquet, data/adapter/steps.jsonl, data/records/train.json are another than was judged",
    ]


def test_judged_name_that_no_file_can_have_is_said(root: Path) -> None:
    verdict = read_json(root / "data/audit/verdict.json")
    for name in ("a" * 5000, "b\0c", "/dev/zero"):
        write_json(root / "data/audit/verdict.json", verdict | {"judged": verdict["judged"] | {name: "0" * 64}})
        assert find_verdict(root).passed is None
        assert find_verdict(root).in_words().isprintable()


def test_record_that_nobody_judged_is_named(root: Path) -> None:
    write_text(root / "data/records/mask.json", "{}\n")
    assert find_verdict(root).reasons == ["data/records/mask.json is newer than the verdict"]


CHECK = {"name": "a", "found": 0, "floor": 1, "passed": False, "says": "too few"}
SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "gate_gone": (lambda root: (root / "data/gate.json").unlink(), "data/gate.json is not there"),
    "gate_is_a_folder": (
        lambda root: ((root / "data/gate.json").unlink(), (root / "data/gate.json").mkdir()),
        "data/gate.json cannot be read",
    ),
    "gate_cut_off": (
        lambda root: (root / "data/gate.json").write_text((root / "data/gate.json").read_text()[:40]),
        "data/gate.json is no JSON: cut off, or edited",
    ),
    "gate_no_text": (lambda root: (root / "data/gate.json").write_bytes(b"\xff\xfe\0{"), "data/gate.json is no JSON"),
    "gate_list": (lambda root: (root / "data/gate.json").write_text("[]"), "data/gate.json is no verdict"),
    "gate_of_an_older_version": (
        change("data/gate.json", lambda gate: gate.pop("judged")),
        "data/gate.json lacks the field `judged`: another version",
    ),
    "gate_of_a_newer_version": (
        change("data/gate.json", lambda gate: gate.update(scores={})),
        "data/gate.json has a field that this version of Retune does not know",
    ),
    "gate_of_another_run": (
        change("data/gate.json", lambda gate: gate["judged"].update({"data/records/train.json": "0" * 64})),
        "data/gate.json is not of the verdict in data/audit/verdict.json",
    ),
    "gate_says_yes_as_text": (
        change("data/gate.json", lambda gate: gate.update(passed="true")),
        "data/gate.json is no verdict as this version of Retune writes it (`passed`)",
    ),
    "gate_says_no": (
        change("data/gate.json", lambda gate: gate.update(passed=False)),
        "data/gate.json says another verdict than its own reasons",
    ),
    "gate_says_no_with_a_reason": (
        change("data/gate.json", lambda gate: gate.update(passed=False, reasons=["a: too few"])),
        "data/gate.json is not of the verdict in data/audit/verdict.json",
    ),
    "verdict_gone": (
        lambda root: (root / "data/audit/verdict.json").unlink(),
        "data/audit/verdict.json is not there",
    ),
    "verdict_cut_off": (
        lambda root: (root / "data/audit/verdict.json").write_text('{"passed": true, "reasons'),
        "data/audit/verdict.json is no JSON",
    ),
    "verdict_judged_nothing": (
        change("data/audit/verdict.json", lambda verdict: verdict.update(judged={})),
        "data/audit/verdict.json is no verdict as this version of Retune writes it (`judged`)",
    ),
    "verdict_without_checks": (
        change("data/audit/verdict.json", lambda verdict: verdict.update(checks=[])),
        "data/audit/verdict.json is no verdict",
    ),
    "verdict_with_a_failed_check": (
        change("data/audit/verdict.json", lambda verdict: verdict["checks"].append(CHECK)),
        "data/audit/verdict.json says another verdict than its own checks",
    ),
    "verdict_with_an_unknown_field": (
        change("data/audit/verdict.json", lambda verdict: verdict["checks"][0].update({"\x1b[2J": 1})),
        "data/audit/verdict.json has a field that this version",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_spoilt_verdict_is_said_in_words_and_never_passed(root: Path, name: str) -> None:
    spoil, said = SPOILT[name]
    spoil(root)
    verdict = find_verdict(root)
    assert verdict.passed is None
    assert verdict.in_words().startswith(f"{NO_VERDICT}: {said}"), verdict.in_words()
    assert verdict.in_words().isprintable()


def test_verdicts_words_hold_no_escape_sequence_of_a_file(root: Path) -> None:
    verdict = write_verdict(root, passed=False)
    forged = "loss\x1b[2K\rverdict  passed\n"
    verdict["checks"][0]["says"] = forged
    write_json(root / "data/audit/verdict.json", {**verdict, "reasons": [f"loss_gain: {forged}"]})
    said = find_verdict(root).in_words()
    assert said.isprintable()
    assert said.startswith("did not pass: loss_gain: loss\\x1b")


def test_page_of_other_figures_is_told_from_that_of_the_verdict(root: Path) -> None:
    page = root / "data/report/README.md"
    text = page.read_text()
    for other in (text.replace("retune-judged: ", "retune-judged: 0")[:-1], text + text, "", "\xff"):
        page.write_text(other, encoding="latin-1")
        assert not is_of_verdict(page, find_verdict(root))
    page.unlink()
    assert not is_of_verdict(page, find_verdict(root))


def test_nothing_is_said_of_files_that_nobody_judged(root: Path, tmp_path: Path) -> None:
    (root / "data/gate.json").unlink()
    assert warn_of(root, tmp_path / "downloaded.gguf") is None
    assert warn_of(root, root / "data/gguf/a.gguf") is not None
    (root / "data/audit/verdict.json").unlink()
    assert warn_of(root, root / "data/gguf/a.gguf") is None


def test_verdict_is_json_that_reads_back(root: Path) -> None:
    assert json.loads((root / "data/gate.json").read_text())["judged"].keys() == {
        f"data/{name}" for name in (*FIGURES, *RECORDS)
    }


def test_verdict_and_gate_that_were_edited_together_are_not_what_dvc_lock_names(root: Path) -> None:
    write_verdict(root, passed=False)
    write_lock(root, {"audit": ["data/audit"], "gate": ["data/gate.json"]})
    assert find_verdict(root).passed is False
    write_verdict(root)
    said = find_verdict(root)
    assert said.passed is None
    assert said.in_words() == f"{NO_VERDICT}: data/audit is not what dvc.lock names (`dvc repro` judges them)"
    lock = write_lock(root, {"audit": ["data/audit"], "gate": ["data/records/train.json"]})
    lock.write_text(lock.read_text().replace("data/records/train.json", "data/gate.json"))
    assert find_verdict(root).reasons == ["data/gate.json is not what dvc.lock names"]
    write_lock(root, {"records": ["data/records/train.json"]})
    assert find_verdict(root).reasons == ["data/audit is not what dvc.lock names"]
    write_lock(root, {"audit": ["data/audit"], "gate": ["data/gate.json"]})
    assert find_verdict(root).passed is True
    (root / "dvc.lock").write_text("stages: {audit: {cm")
    assert find_verdict(root).reasons[0].startswith("dvc.lock is no whole YAML file")
