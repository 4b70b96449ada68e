"""The cache keys: what a stage depends on in dvc.yaml is what its code really reads. A wrong key is a stale model or a wasted night."""

import ast
from pathlib import Path
from typing import Any

import pytest

from stages.environment.pins import PINNED, locked_versions, pin_file
from tests.project import ROOT, STAGES, closure, flags_of, imports_of, outs_of, upstream

# files that a stage reads beside Python modules
DATA_FILES = {
    "template": {"stages/chat/templates"},
    "report": {"stages/reporting/pages"},
}
# files whose edits change no result: what only shows or logs. Keep it short.
EXEMPT = {"stages/show/progress.py"}
# files that a package brings into a key without being imported: of stages that take seconds alone, named one by one
SPARE = {
    "fetch_data": {"stages/workers/ordered_map.py", "stages/workers/shared_memory.py"},
    "audit": {"stages/reporting/numbers.py", "stages/reporting/shown_rows.py", "stages/reporting/token_view.py"},
    "report": {
        "stages/reporting/ledger_checks.py",
        "stages/reporting/lock_check.py",
        "stages/reporting/provenance.py",
        "stages/reporting/row_checks.py",
    },
}


def project_deps(stage: dict[str, Any]) -> set[str]:
    return {dep for dep in stage["deps"] if dep.startswith("stages/")}


def modules_of(dep: str) -> set[str]:
    """The modules that a dep stands for: those of a package and of the packages in it, or the one."""
    path = ROOT / dep
    found = path.rglob("*.py") if path.is_dir() else [path] if path.suffix == ".py" else []
    return {file.relative_to(ROOT).as_posix() for file in found if file.name != "__init__.py"}


@pytest.mark.parametrize("name", [name for name in STAGES if name != "check"])
def test_stage_deps_equal_the_import_closure(name: str) -> None:
    needed = {path.relative_to(ROOT).as_posix() for path in closure(ROOT / "stages" / f"{name}.py")} - EXEMPT
    listed = set().union(*map(modules_of, project_deps(STAGES[name])))
    missing, spare = sorted(needed - listed), sorted(listed - needed)
    assert not missing, f"{name} imports these and dvc.yaml does not list them:\n" + "\n".join(missing)
    assert set(spare) == SPARE.get(name, set()), (
        f"dvc.yaml lists these for {name}, which does not import them:\n" + "\n".join(spare)
    )


def test_check_depends_on_all_code() -> None:
    assert [dep for dep in STAGES["check"]["deps"] if dep.startswith("stages")] == ["stages"]


@pytest.mark.parametrize("name", STAGES)
def test_package_that_is_whole_in_a_key_is_named_and_not_its_files(name: str) -> None:
    deps = project_deps(STAGES[name])
    for package in {Path(dep).parent.as_posix() for dep in deps} - {"stages", "stages/contracts", "stages/environment"}:
        assert set().union(*(modules_of(dep) for dep in deps if dep.startswith(f"{package}/"))) != modules_of(
            package
        ), f"{name}: list {package} itself"


@pytest.mark.parametrize("name", STAGES)
def test_stage_deps_hold_its_data_files_and_the_pins_its_record_names(name: str) -> None:
    deps = project_deps(STAGES[name])
    assert all(any(folder.startswith(f"{dep}/") for dep in deps) for folder in DATA_FILES.get(name, ()))
    words = STAGES[name]["cmd"].split()
    pins = {words[words.index("--environment") + 1]} if "--environment" in words else set()
    assert {dep for dep in deps if dep.startswith("stages/environment/")} == pins


@pytest.mark.parametrize("name", STAGES)
def test_stage_lists_its_whole_params_section(name: str) -> None:
    sections = [section for section in STAGES if section != "check"]
    # the audit holds each record against dvc.lock: a false entry that DVC hands out may bring the very files that lie there
    recorded = [stage for stage in STAGES if "--record" in flags_of(stage)]
    wanted = {"check": sections, "audit": ["audit", *recorded]}.get(name, [name])
    assert STAGES[name]["params"] == wanted, f"dvc.yaml, {name}: params: [{', '.join(wanted)}]"


@pytest.mark.parametrize("name", [name for name in STAGES if name != "check"])
def test_stage_waits_for_check(name: str) -> None:
    assert "data/checked.json" in STAGES[name]["deps"]


@pytest.mark.parametrize("name", STAGES)
def test_stage_paths_in_its_command_are_its_deps_and_outs(name: str) -> None:
    named = {path for flag, paths in flags_of(name).items() if flag != "--environment" for path in paths}
    external = {dep for dep in STAGES[name]["deps"] if not dep.startswith("stages")} - {"data/checked.json"}
    assert named - {"params.yaml"} == external | outs_of(name)


def test_gguf_reads_the_record_of_every_stage_before_it() -> None:
    before = [stage for stage in upstream("gguf") if stage != "gguf" and "--record" in flags_of(stage)]
    wanted = {path for stage in before for path in flags_of(stage)["--record"]}
    missing = sorted(wanted - {path for paths in flags_of("gguf").values() for path in paths})
    assert not missing, (
        "the exported files tell what made them: add `--STAGE data/records/STAGE.json` to gguf's command, and the path to its deps\n"
        + "\n".join(missing)
    )


def test_exempt_files_are_short_and_can_only_show() -> None:
    files = [ROOT / name for name in sorted(EXEMPT)]
    assert files == sorted(
        path for path in ROOT.glob("stages/show/*") if path.name not in ("__init__.py", "__pycache__")
    )
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) <= 150
    for file in files:
        assert imports_of(file) == set(), "what it imports of ours would be exempt with it"
        tree = ast.parse(file.read_text(encoding="utf-8"))
        modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        known = {
            "collections.abc",
            "contextlib",
            "logging",
            "os",
            "rich.console",
            "rich.progress",
            "rich.table",
            "sys",
            "time",
            "typing",
        }
        assert modules <= known, "it shows: it needs no way to a file"
        assert "open" not in {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def test_packages_init_files_hold_nothing_but_a_docstring() -> None:
    for file in sorted(ROOT.glob("stages/**/__init__.py")):
        body = ast.parse(file.read_text(encoding="utf-8")).body
        assert len(body) <= 1, f"{file} holds code, and no stage depends on it"


@pytest.mark.parametrize("kind", PINNED)
def test_pin_file_equals_the_lock(kind: str) -> None:
    locked = locked_versions((ROOT / "requirements.lock").read_text(encoding="utf-8"))
    assert (ROOT / "stages" / "environment" / f"{kind}.txt").read_text(encoding="utf-8") == pin_file(kind, locked), (
        "run `make lock`"
    )


def test_lock_names_no_address_and_hashes_every_package() -> None:
    for name in ("requirements.lock", "requirements-uv.lock"):
        lock = (ROOT / name).read_text(encoding="utf-8")
        assert "://" not in lock
        packages = [line for line in lock.splitlines() if line and line[0] not in " #"]
        assert packages
        assert all(line.endswith("\\") for line in packages), "a pin without a hash"


def test_stages_are_named_as_their_files() -> None:
    for name, stage in STAGES.items():
        assert stage["cmd"].startswith(f"python -m stages.{name} ")
        assert Path(ROOT / "stages" / f"{name}.py").is_file()


@pytest.mark.parametrize("name", STAGES)
def test_execution_record_is_an_output_in_the_cache_that_no_stage_reads(name: str) -> None:
    path = f"data/execution/{name}.json"
    # what check writes never changes, so there is nothing that a record of how it ran would be of
    assert flags_of(name).get("--execution", []) == ([] if name == "check" else [path])
    if name != "check":
        assert path in STAGES[name]["outs"], "as a plain name: kept in DVC's cache, taken away before the stage runs"
    readers = [stage for stage, entry in STAGES.items() for dep in entry["deps"] if Path(path).is_relative_to(dep)]
    assert readers == []
