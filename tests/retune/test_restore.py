import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.retune.conftest import REPO, call
from tests.stages.core.test_runner import RUNTIME

pytestmark = pytest.mark.slow

STAGES = """\
stages:
  copy:
    cmd: python -m stages.copy --source source --files out/files --figures out/figures.json
    deps: [source, stages/copy.py]
    params: [copy]
    outs: [out/files]
    metrics:
      - out/figures.json: {cache: false}
  join:
    cmd: python -c "from pathlib import Path; Path('out/join').write_text(Path('out/files/a').read_text())"
    deps: [out/files]
    outs: [out/join]
"""
COPY = '''\
"""Copies, unless it is told to fail."""
import os
from typing import Annotated

from stages.core.runner import Input, Output, run
from stages.core.errors import StageError
from stages.core.params import Params


class CopyParams(Params):
    fails: bool


def copy(source: Input, files: Output, figures: Output, params: CopyParams) -> None:
    if params.fails:
        raise StageError("it was told to fail")
    files.mkdir()
    for name in ("a", "b"):
        (files / name).write_text(source.read_text() + name)
    figures.write_text("{}")


if __name__ == "__main__":
    run(copy)
'''


@pytest.fixture(scope="session")
def made_copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DVC project with a stage of `stages.core.runner`, which has run; committed."""
    root = tmp_path_factory.mktemp("copies") / "project"
    root.mkdir()
    call("git", "init", "-q", cwd=root)
    call("dvc", "init", "-q", cwd=root)
    shutil.copytree(REPO / "stages", root / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "stages/copy.py").write_text(COPY)
    (root / "dvc.yaml").write_text(STAGES)
    (root / "source").write_text("text ")
    (root / "params.yaml").write_text("copy: {fails: false}\n" + RUNTIME)
    done = call("dvc", "repro", cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
    call("git", "add", ".", cwd=root)
    call("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "all", cwd=root)
    return root


@pytest.fixture
def copies(made_copies: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_copies, tmp_path / "project"))


def content(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): path.read_text() for path in sorted((root / "out").rglob("*")) if path.is_file() and path.name != ".gitignore"}  # fmt: skip


ALL = {"out/figures.json": "{}", "out/files/a": "text a", "out/files/b": "text b", "out/join": "text a"}


def fail(root: Path) -> subprocess.CompletedProcess[str]:
    parameters = root / "params.yaml"
    parameters.write_text(parameters.read_text().replace("fails: false", "fails: true"))
    return call("dvc", "repro", cwd=root)


def cached(root: Path, text: str) -> Path:
    return next(path for path in (root / ".dvc/cache/files").rglob("*") if path.is_file() and path.read_text() == text)


def rot(path: Path, text: str) -> None:
    """Other bytes under the same name, and DVC's mark that it has seen the right ones: its mode."""
    path.chmod(0o644)
    path.write_text(text)
    path.chmod(0o444)


def test_failed_stage_names_restore_which_brings_its_last_good_files_back(
    copies: Path, retune: Callable[..., Any]
) -> None:
    failed = fail(copies)
    assert failed.returncode != 0
    assert (
        "copy: it was told to fail\nThe last good files of this stage, made of the data and params of then, are in the cache: `retune restore copy`"
        in failed.stderr
    )
    assert content(copies) == {"out/join": "text a"}
    done = retune("restore", "copy", cwd=copies)
    assert done.returncode == 0, done.stderr
    assert content(copies) == ALL
    assert "copy: out/files is back" in done.stdout
    assert "copy: out/figures.json is back" in done.stdout
    assert (
        "it is what copy made before these changed: copy in params.yaml; `dvc repro copy` makes it anew" in done.stdout
    )
    assert "join" not in done.stdout


def test_first_failure_of_a_stage_names_nothing(copies: Path) -> None:
    (copies / "dvc.lock").unlink()
    assert "retune restore" not in fail(copies).stderr


def test_failure_of_a_stage_whose_files_are_not_in_the_cache_names_nothing(copies: Path) -> None:
    shutil.rmtree(copies / ".dvc/cache")
    assert "retune restore" not in fail(copies).stderr


def test_all_that_is_missing_comes_back_and_no_more(copies: Path, retune: Callable[..., Any]) -> None:
    (copies / "out/files/b").unlink()
    (copies / "out/join").unlink()
    done = retune("restore", cwd=copies)
    assert done.returncode == 0, done.stdout
    assert content(copies) == ALL
    assert done.stdout == "copy: out/files is back\njoin: out/join is back\n"
    assert retune("restore", cwd=copies).stdout == "nothing is missing\n"


def test_file_that_was_changed_stays_without_force(copies: Path, retune: Callable[..., Any]) -> None:
    (copies / "out/files/a").write_text("mine")
    (copies / "out/files/b").unlink()
    (copies / "out/join").unlink()
    everything = retune("restore", cwd=copies)
    assert everything.returncode == 0, "nobody asked for that stage"
    assert "copy: out/files is there with other content; --force replaces it" in everything.stdout
    asked = retune("restore", "copy", "--json", cwd=copies)
    assert asked.returncode == 1
    assert [out["state"] for out in json.loads(asked.stdout)["stages"][0]["outputs"]] == ["there", "changed"]
    assert content(copies) == {"out/figures.json": "{}", "out/files/a": "mine", "out/join": "text a"}
    assert retune("restore", "copy", "--force", cwd=copies).returncode == 0
    assert content(copies) == ALL


def test_damaged_object_of_the_cache_is_not_brought_back(copies: Path, retune: Callable[..., Any]) -> None:
    rotten = cached(copies, "text b")
    rot(rotten, "text B")
    shutil.rmtree(copies / "out")
    done = retune("restore", cwd=copies)
    assert done.returncode == 1
    assert (
        f"copy: out/files is damaged in the cache; remove what is wrong there (`rm -f {rotten.relative_to(copies)}`)"
        in done.stdout
    )
    assert "join: out/join is back" in done.stdout
    assert not (copies / "out/files").exists()
    rotten.unlink()
    assert "copy: out/files is not in the cache (out/files/b)" in retune("restore", cwd=copies).stdout


def tamper(path: Path, text: str) -> None:
    """Other bytes of the same length, with time and mode as they were: nothing that DVC looks at."""
    stat = path.stat()
    assert len(text) == stat.st_size
    path.chmod(0o644)
    path.write_text(text)
    path.chmod(stat.st_mode)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def status(root: Path) -> dict[str, Any]:
    return json.loads(call("dvc", "status", "--json", cwd=root).stdout)


def test_file_that_was_changed_with_size_and_time_kept_is_seen_and_comes_back(
    copies: Path, retune: Callable[..., Any]
) -> None:
    call("dvc", "checkout", cwd=copies)
    tamper(copies / "out/files/a", "texT a")
    assert "copy: out/files is there with other content" in retune("restore", cwd=copies).stdout
    done = retune("restore", "--force", "copy", cwd=copies)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "copy: out/files is back\n"
    assert content(copies) == ALL
    assert status(copies) == {}
    assert "is cached" not in call("dvc", "repro", cwd=copies).stdout
    assert content(copies) == ALL


def test_cache_that_is_damaged_is_mended_of_the_files_that_are_whole(copies: Path, retune: Callable[..., Any]) -> None:
    rotten, listing = cached(copies, "text b"), next((copies / ".dvc/cache/files").rglob("*.dir"))
    cached(copies, "text a").unlink()
    tamper(rotten, "text B")
    tamper(listing, listing.read_text().replace('"a"', '"c"'))
    assert retune("restore", cwd=copies).stdout == "nothing is missing\n"
    done = retune("restore", "--force", cwd=copies)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("copy: the cache of out/files is mended (out/files, out/files/")
    assert rotten.read_text() == "text b"
    assert not rotten.stat().st_mode & 0o222
    shutil.rmtree(copies / "out")
    assert call("dvc", "checkout", "copy", "join", cwd=copies).returncode in (0, 1)
    assert {name: text for name, text in content(copies).items() if "figures" not in name} == {
        name: text for name, text in ALL.items() if "figures" not in name
    }


def test_file_that_is_damaged_here_and_in_the_cache_is_made_again_by_what_is_advised(
    copies: Path, retune: Callable[..., Any]
) -> None:
    """As when DVC has handed out a damaged object: it believes both."""
    rotten = cached(copies, "text a")
    tamper(rotten, "texT a")
    (copies / "out/files/a").unlink()
    assert call("dvc", "checkout", "out/files", cwd=copies).returncode == 0
    assert (copies / "out/files/a").read_text() == "texT a"
    done = retune("restore", "--force", "copy", cwd=copies)
    assert done.returncode == 1
    assert "was damaged in the cache, too, and what was wrong there is removed (out/files/a)" in done.stdout
    assert "`dvc repro copy` makes it again" in done.stdout
    assert call("dvc", "repro", "copy", cwd=copies).returncode == 0
    assert content(copies) == ALL
    assert rotten.read_text() == "text a"
    assert status(copies) == {}


def test_metrics_that_were_changed_with_size_and_time_kept_are_made_again(
    copies: Path, retune: Callable[..., Any]
) -> None:
    tamper(copies / "out/figures.json", "[]")
    shutil.rmtree(copies / ".git/logs")
    call("git", "rm", "-q", "--cached", "out/figures.json", cwd=copies)
    call("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "--amend", "-m", "all", cwd=copies)
    done = retune("restore", "--force", cwd=copies)
    assert done.returncode == 1
    assert "`dvc repro copy` makes it again" in done.stdout
    assert call("dvc", "repro", "copy", cwd=copies).returncode == 0
    assert content(copies) == ALL


def test_damaged_listing_of_a_folder_is_noticed(copies: Path, retune: Callable[..., Any]) -> None:
    listing = next((copies / ".dvc/cache/files").rglob("*.dir"))
    rot(listing, listing.read_text().replace('"a"', '"../a"'))
    shutil.rmtree(copies / "out/files")
    assert "is damaged in the cache" in retune("restore", "copy", cwd=copies).stdout
    assert not (copies / "out/files").exists()


def test_file_that_neither_dvc_nor_git_has_is_named(copies: Path, retune: Callable[..., Any]) -> None:
    (copies / "out/figures.json").unlink()
    shutil.rmtree(copies / ".git/logs")
    call("git", "rm", "-q", "--cached", "out/figures.json", cwd=copies)
    call("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "--amend", "-m", "all", cwd=copies)
    done = retune("restore", cwd=copies)
    assert done.returncode == 1
    assert (
        "copy: out/figures.json is not kept by DVC, and git has it not; `dvc repro copy` makes it again" in done.stdout
    )


def test_stage_that_never_ran_and_project_without_runs_are_said(copies: Path, retune: Callable[..., Any]) -> None:
    assert "dvc.lock has no cpy" in retune("restore", "cpy", cwd=copies).stderr
    (copies / "dvc.lock").unlink()
    assert "nothing has run here" in retune("restore", cwd=copies).stderr


@pytest.mark.slow
def test_restore_waits_for_nobody_and_disturbs_no_run(copies: Path, retune: Callable[..., Any]) -> None:
    """A run that works on another stage holds DVC's lock of paths all the while, and needs the other one when it has ended."""
    (copies / "dvc.yaml").write_text(STAGES.replace('python -c "', 'python -c "import time; time.sleep(8); '))
    shutil.rmtree(copies / "out/files")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    running = subprocess.Popen(
        [sys.executable, "-P", "-m", "dvc", "repro", "join"], cwd=copies, env={**os.environ, "PATH": path},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        lock = copies / ".dvc/tmp/rwlock"
        deadline = time.monotonic() + 30
        while not (lock.is_file() and "join" in lock.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        done = retune("restore", cwd=copies)
        assert done.returncode == 1
        assert f"held by process {running.pid}" in done.stderr
        assert "restore when it has ended" in done.stderr
        assert running.wait(60) == 0
    finally:
        running.kill()
        running.wait()
