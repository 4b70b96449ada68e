"""Files of two runs in one data/: records as the stages write them, of stages that were never run."""

from pathlib import Path

import pytest

from retune.earlier import find_earlier, read_sound_records, warn_of_adapter
from stages.core.files import sha256_files, sha256_tree, write_json, write_text
from tests.verdict_files import write_verdict

CHAIN = {
    "template": ([], "tokens"),
    "train": (["data/tokens"], "adapter"),
    "evaluate": (["data/adapter", "data/tokens"], "evaluation"),
    "merge": (["data/adapter"], "merged"),
    "gguf": (["data/merged", "data/adapter", "data/records/train.json", "data/records/merge.json"], "gguf"),
}
"""{stage: (what it reads, the folder below data/ that it writes)}."""


def run_stage(root: Path, stage: str, text: str) -> None:
    """Write what a stage would, with its record."""
    reads, folder = CHAIN[stage]
    write_text(root / "data" / folder / "checks.json", text)
    files = sha256_files(root / "data" / folder)
    inputs = {Path(path).stem: {"path": path, "sha256": sha256_tree(sha256_files(root / path))} for path in reads}
    outputs = {folder: {"path": f"data/{folder}", "sha256": sha256_tree(files), "files": files}}
    record = {"stage": stage, "code": {}, "environment": {}, "params": {}, "inputs": inputs, "outputs": outputs}
    write_json(root / "data/records" / f"{stage}.json", record)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """All of one run, judged."""
    for stage in CHAIN:
        run_stage(tmp_path, stage, stage)
    write_verdict(tmp_path)
    return tmp_path


def test_nothing_of_one_run_is_of_an_earlier_one(root: Path) -> None:
    assert find_earlier(root) == []
    assert warn_of_adapter(root, root / "data/gguf/a.gguf") is None


def test_new_adapter_leaves_all_that_was_made_of_the_former_one(root: Path) -> None:
    run_stage(root, "train", "a longer training")
    assert find_earlier(root) == ["evaluate", "merge", "gguf", "audit", "report", "gate"]
    assert str(warn_of_adapter(root, root / "data/gguf/a.gguf")).startswith(
        "by the records a.gguf is of another adapter"
    )
    assert warn_of_adapter(root, root / "a.gguf") is None
    run_stage(root, "evaluate", "better")
    run_stage(root, "merge", "the longer training, merged")
    assert find_earlier(root) == ["gguf", "audit", "report", "gate"]


def test_what_was_made_of_an_earlier_runs_files_is_of_that_run(root: Path) -> None:
    run_stage(root, "template", "other tokens")
    assert find_earlier(root)[:4] == ["train", "evaluate", "merge", "gguf"]
    assert warn_of_adapter(root, root / "data/gguf/a.gguf") is None  # both are of that run


def test_stage_that_failed_and_records_that_are_none_say_nothing(root: Path) -> None:
    (root / "data/records/train.json").unlink()
    (root / "data/records/merge.json").write_text('{"stage": "mer')
    assert set(read_sound_records(root)) == {"template", "evaluate", "gguf"}
    assert find_earlier(root)[:1] != ["gguf"]
    assert warn_of_adapter(root, root / "data/gguf/a.gguf") is None


def test_page_and_gate_of_another_audit(root: Path) -> None:
    page, gate = ((root / path).read_text() for path in ("data/report/index.html", "data/gate.json"))
    run_stage(root, "gguf", "exported once more")
    write_verdict(root)
    assert find_earlier(root) == []
    write_text(root / "data/report/index.html", page)
    write_text(root / "data/gate.json", gate)
    assert find_earlier(root) == ["report", "gate"]
