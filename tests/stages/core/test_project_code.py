import hashlib
import json
from pathlib import Path

import pytest

from stages.core.project_code import keep_code


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def listings(root: Path) -> list[dict[str, str]]:
    return [json.loads(file.read_text()) for file in sorted((root / ".retune/code/listings").iterdir())]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in {
        "a.py": "a = 1\n",
        "deep/__init__.py": "",
        "deep/b.py": "b = 1\n",
        "deep/pages/c.jinja": "{{ c }}",
        "deep/__pycache__/b.pyc": "compiled",
    }.items():
        (tmp_path / "stages" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "stages" / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_keep_code_keeps_every_file_by_its_md5_and_their_listing_with_no_compiled_python(root: Path) -> None:
    keep_code()
    names = ["stages/a.py", "stages/deep/__init__.py", "stages/deep/b.py", "stages/deep/pages/c.jinja"]
    assert listings(root) == [{name: md5((root / name).read_bytes()) for name in names}]
    for name in names:
        content = (root / name).read_bytes()
        assert (root / ".retune/code" / f"{md5(content)}{Path(name).suffix}").read_bytes() == content


def test_keep_code_twice_keeps_nothing_more_and_after_an_edit_both_versions(root: Path) -> None:
    keep_code()
    kept = sorted((root / ".retune/code").rglob("*"))
    keep_code()
    assert sorted((root / ".retune/code").rglob("*")) == kept
    (root / "stages/deep/b.py").write_text("b = 2\n")
    keep_code()
    texts = {file.read_text() for file in (root / ".retune/code").glob("*.py")}
    assert {"b = 1\n", "b = 2\n"} <= texts
    assert len(listings(root)) == 2


def test_keep_code_passes_over_what_cannot_be_read(root: Path) -> None:
    (root / "stages/deep/.#b.py").symlink_to("nobody@nowhere")
    keep_code()
    assert "stages/deep/.#b.py" not in listings(root)[0]
