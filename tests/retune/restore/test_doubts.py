"""A record or an output that was forged together with dvc.lock mends no cache; what is genuine does."""

import subprocess
from pathlib import Path

import pytest

from retune.restore.command import bring_back, look_at_outputs
from retune.verify.kinds import Difference
from retune.verify.locked import list_outs
from retune.verify.outputs import compare_outputs
from retune.verify.seen import Seen, hash_project
from stages.core.files import read_json, sha256_file, sha256_tree, write_json
from stages.dvc_lock.hashes import digest_file, object_path
from stages.dvc_lock.lock import read_locked_stages
from tests.locks import write_lock

RECORD = "data/records/gguf.json"
OUTS = ["data/gguf", RECORD, "data/execution/gguf.json"]


def lock(root: Path) -> None:
    """dvc.lock of what lies there."""
    path = write_lock(root, {"gguf": OUTS})
    command = f"python -m stages.gguf --gguf data/gguf --record {RECORD} --execution data/execution/gguf.json"
    path.write_text(path.read_text().replace("cmd: python -m stages.gguf", f"cmd: {command}"))


def record(root: Path) -> None:
    files = {"a.gguf": sha256_file(root / "data/gguf/a.gguf")}
    output = {"path": "data/gguf", "sha256": sha256_tree(files), "files": files}
    empty: dict[str, object] = {"code": {}, "environment": {}, "params": {}, "inputs": {}}
    write_json(root / RECORD, {"stage": "gguf", **empty, "outputs": {"gguf": output}})


def commit(root: Path) -> None:
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.invalid"]
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    subprocess.run(["git", "add", "dvc.lock"], cwd=root, check=True)
    subprocess.run([*git, "commit", "-qm", "lock"], cwd=root, check=True)


def remember(root: Path) -> None:
    """The run in DVC's run cache."""
    from ruamel.yaml import YAML

    folder = root / ".dvc/cache/runs/aa/aaaa"
    folder.mkdir(parents=True)
    values = YAML(typ="safe").load(root / "dvc.lock")["stages"]["gguf"]
    YAML().dump(values, folder / "bbbb")


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """One exported file with its record, dvc.lock, and a cache that has nothing."""
    for folder in ("data/gguf", "data/records", "data/execution", ".dvc/cache"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "data/gguf/a.gguf").write_bytes(b"weights")
    (tmp_path / "data/execution/gguf.json").write_text("{}")
    record(tmp_path)
    lock(tmp_path)
    return tmp_path


def look(root: Path) -> Seen:
    return hash_project(root, root / ".dvc/cache", read_locked_stages(root))


def mend(root: Path) -> dict[str, str]:
    """{output: why its cache was not mended} of `retune restore --force gguf`."""
    (root / "dvc.yaml").write_text("stages: {}\n")
    seen = look(root)
    outs = {"gguf": list_outs(seen.locked["gguf"])}
    plan = [look_at_outputs(seen, "gguf", outs["gguf"])]
    bring_back(seen, plan, outs, force=True)
    return {output.path: output.problem for output in plan[0].outputs if output.problem}


def forge_record(root: Path) -> None:
    forged = read_json(root / RECORD)
    forged["outputs"]["gguf"]["files"]["a.gguf"] = "0" * 64
    write_json(root / RECORD, forged)
    lock(root)


def forge_file(root: Path) -> None:
    (root / "data/gguf/a.gguf").write_bytes(b"Weights")
    record(root)
    lock(root)


def test_genuine_outputs_mend_the_cache_also_after_another_run_of_the_same_bytes(exported: Path) -> None:
    commit(exported)
    remember(exported)
    (exported / "data/execution/gguf.json").write_text('{"seconds": 2}')
    lock(exported)
    assert mend(exported) == {}
    for path in (RECORD, "data/gguf/a.gguf", "data/execution/gguf.json"):
        assert object_path(exported / ".dvc/cache", digest_file(exported / path)).is_file()


def test_record_that_is_not_of_the_outputs_is_not_cemented(exported: Path) -> None:
    forge_record(exported)
    said = mend(exported)
    assert said.keys() == {RECORD, "data/gguf"}
    assert "names another sha256 of data/gguf/a.gguf than lies there" in said[RECORD]
    assert "`dvc repro --force --single-item gguf`" in said[RECORD]
    assert not object_path(exported / ".dvc/cache", digest_file(exported / RECORD)).exists()


@pytest.mark.parametrize(("witness", "named"), [(commit, "committed dvc.lock"), (remember, "run cache")])
def test_file_that_was_forged_with_record_and_lock_is_not_cemented(exported: Path, witness, named: str) -> None:
    witness(exported)
    forge_file(exported)
    said = mend(exported)
    assert said.keys() == {RECORD, "data/gguf"}
    assert all(f"{named} has other bytes" in one for one in said.values())
    assert not [file for file in (exported / ".dvc/cache/files").rglob("*") if file.is_file() and file.read_bytes() == b"Weights"]  # fmt: skip


def find_forged(root: Path) -> list[Difference]:
    from dataclasses import replace

    return list(compare_outputs(replace(look(root), records={"gguf": read_json(root / RECORD)})))


def test_remedy_for_a_record_that_the_lock_names_is_another_run(exported: Path) -> None:
    forge_record(exported)
    (one,) = find_forged(exported)
    assert (one.kind, one.remedy) == ("record_bytes", "`dvc repro --force --single-item gguf`")


def test_remedy_for_a_record_that_the_lock_does_not_name_is_the_cache(exported: Path) -> None:
    kept = (exported / "dvc.lock").read_text()
    forge_record(exported)
    (exported / "dvc.lock").write_text(kept)
    one = next(one for one in find_forged(exported) if one.kind == "record_bytes")
    assert one.remedy == "`retune restore --force gguf`"
