"""`retune restore` is advised only where dvc.lock names other bytes than lie there."""

from pathlib import Path

import pytest

from retune.verify.kinds import Difference, restore
from retune.verify.remedies import settle_remedies
from retune.verify.seen import hash_project
from stages.core.files import write_text
from stages.dvc_lock.lock import read_locked_stages
from tests.locks import write_lock

OUTS = ["data/audit", "data/records/audit.json", "data/execution/audit.json"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with one stage, of which dvc.lock names all outputs and the code as they lie there."""
    for path in ("data/audit/verdict.json", *OUTS[1:], "stages/audit.py"):
        write_text(tmp_path / path, "{}\n")
    lock = write_lock(tmp_path, {"audit": OUTS, "code": ["stages/audit.py"]})
    code = read_locked_stages(tmp_path)["code"].outs["stages/audit.py"]
    lock.write_text(lock.read_text().replace("0" * 32, code, 1))
    return tmp_path


def settle(root: Path, kind: str, path: str) -> str:
    """The remedy of one difference."""
    seen = hash_project(root, root / ".dvc/cache", read_locked_stages(root))
    one = Difference(kind, path, "is of other figures", "", "audit", f"`dvc repro audit`, or {restore('audit')}")
    return settle_remedies(seen, [one])[0].remedy


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("verdict_contradicts", "data/audit/verdict.json"),
        ("record_chain", "data/records/audit.json"),
        ("record_unreadable", "data/records/audit.json"),
        ("record_bytes", "data/audit/verdict.json"),
        ("execution_contradicts", "data/execution/audit.json"),
    ],
)
def test_restore_is_named_where_it_changes_something_and_only_there(root: Path, kind: str, path: str) -> None:
    assert settle(root, kind, path) == "`dvc repro --force --single-item audit`"
    (root / "stages/audit.py").write_text("another")
    assert settle(root, kind, path) == "`dvc repro audit`"
    (root / path).write_text("another")
    assert restore("audit") in settle(root, kind, path)


def test_another_file_of_the_stage_is_asked_where_two_of_them_differ(root: Path) -> None:
    (root / "data/records/audit.json").write_text("another")
    assert restore("audit") in settle(root, "record_bytes", "data/audit/verdict.json")
    assert restore("audit") not in settle(root, "verdict_contradicts", "data/audit/verdict.json")
