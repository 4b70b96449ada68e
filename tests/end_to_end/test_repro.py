"""What `dvc repro` runs again, and what it does not: with the real DVC on a real run."""

import json
import os
import shutil
import time
from typing import Any

import pytest

from retune.verify.project import verify_project
from tests.end_to_end.conftest import Project
from tests.other_params import another, leaves
from tests.project import STAGES, downstream, flags_of

pytestmark = pytest.mark.slow


def test_repro_again_runs_nothing_and_is_fast(project: Project) -> None:
    assert project.repro() == set()
    before = os.times()
    project.call("dvc", "repro")
    after = os.times()
    # of the processor: the wall says more about the neighbours
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    assert seconds < 2.5


def test_repro_every_leaf_param_is_in_the_key_of_its_stage_and_no_other(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.repo import Repo
    from ruamel.yaml import YAML

    monkeypatch.chdir(project.root)  # DVC names stages as seen from here
    values = YAML(typ="safe").load(project.root / "params.yaml")
    with project.edited("params.yaml"):
        for path in leaves(values):

            def change(values: dict[str, Any], path: tuple[str, ...] = path) -> None:
                for key in path[:-1]:
                    values = values[key]
                values[path[-1]] = another(values[path[-1]])

            before = (project.root / "params.yaml").read_bytes()
            project.params(change)
            with Repo(str(project.root)) as repo:
                status = repo.status()
            (project.root / "params.yaml").write_bytes(before)
            # the audit holds the record of each stage that has one against dvc.lock
            audit = {"audit"} if path[0] in STAGES and "--record" in flags_of(path[0]) else set()
            expected = set() if path[0] == "runtime" else {"check", path[0], *audit}
            assert set(status) == expected, ".".join(path)


def test_repro_rank_changed_does_not_tokenize_again(project: Project) -> None:
    with project.edited("params.yaml"):
        project.params(lambda values: values["train"]["lora"].update(r=8))
        assert "template" not in project.repro("--dry")


def test_repro_quantization_changed_runs_gguf_and_what_reads_it(project: Project) -> None:
    with project.edited("params.yaml"):
        project.params(lambda values: values["gguf"].update(quantizations=["q4_0"]))
        assert project.repro() == {"check", *downstream("gguf")}
        assert {file.name for file in (project.root / "data/gguf").glob("*.gguf")} == {
            "retune-demo-q4_0.gguf",
            "retune-demo-lora-f16.gguf",
            "retune-demo-base-q8_0.gguf",
        }


def test_repro_floor_changed_judges_again_and_measures_nothing(project: Project) -> None:
    with project.edited("params.yaml"):
        project.params(lambda values: values["audit"].update(min_exact_match=1.0))
        ended = project.call("dvc", "repro", check=False)
        assert ended.returncode != 0
        assert "the model did not pass" in ended.stderr
        assert "Running stage 'evaluate'" not in ended.stdout
        assert json.loads((project.root / "data/gate.json").read_text())["passed"] is False
        assert "Did not pass" in (project.root / "data/report/index.html").read_text()
        # DVC notes nothing down of a stage that fails: what the gate wrote is as it was written all the same
        found = verify_project(project.root, project.root / ".dvc/cache")
        assert found.differences == []
        assert [note for note in found.notes if note.startswith("the gate said no")]


def test_run_that_ended_before_its_figures_were_judged_has_no_verdict(project: Project) -> None:
    """The page and gate.json of the run before lie there and say passed."""
    assert json.loads(project.call("retune", "summary", "--json").stdout)["passed"] is True
    with project.edited("params.yaml"):
        project.params(lambda values: values["merge"].update(check_rows=3))
        project.call("dvc", "repro", "merge")
        assert json.loads((project.root / "data/gate.json").read_text())["passed"] is True
        said = json.loads(project.call("retune", "summary", "--json").stdout)
        assert said["passed"] is None
        assert said["verdict"].startswith(
            "no verdict for these figures: data/merged/checks.json, data/records/merge.json are another"
        )
        assert said["report_of_verdict"] is False
        for verb in (("push", "me/model", "--dry-run", "--refused-too"), ("chat", "--max-tokens", "1")):
            told = project.call("retune", *verb, check=False).stderr
            assert "no verdict for these figures" in told, told


def test_repro_one_row_of_data_changed_runs_from_fetch_data_on(project: Project) -> None:
    file = project.root / "data/demo/dialogues.jsonl"
    with project.edited("data/demo/dialogues.jsonl"):
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join([lines[1], lines[0], *lines[2:]]).replace(lines[3], "", 1))
        assert project.repro() == set(downstream("fetch_data"))


def test_repro_stray_files_in_the_users_folders_change_no_record_and_export_nothing(project: Project) -> None:
    strays = [project.root / name for name in ("data/custom/notes.txt", "data/custom_base/config.json")]
    kept = project.root / "data/custom_base/.gitkeep"
    records = {file: file.read_bytes() for file in (project.root / "data/records").iterdir()}
    with project.edited():
        try:
            for stray in strays:
                stray.write_text("of no use")
            kept.unlink()
            readers = {
                name for name, stage in STAGES.items() if {"data/custom", "data/custom_base"} & set(stage["deps"])
            }
            assert project.repro() == readers
            assert {file: file.read_bytes() for file in records} == records
        finally:
            kept.touch()
            for stray in strays:
                stray.unlink()


@pytest.mark.parametrize("name", ["data/merged/model.safetensors", "data/gguf/retune-demo-q8_0.gguf"])
def test_audit_names_a_file_with_one_byte_flipped_and_says_no(project: Project, name: str) -> None:
    file = project.root / name
    with project.edited():
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        ended = project.call("dvc", "repro", "-s", "-f", "audit", check=False)
        assert ended.returncode != 0
        assert f"{name} is not what its record says" in ended.stderr
        assert json.loads((project.root / "data/audit/verdict.json").read_text())["passed"] is False


def test_repro_runtime_changed_runs_nothing(project: Project) -> None:
    with project.edited("params.yaml"):
        project.params(lambda values: values["runtime"].update(workers=1, micro_batch=4, log_level="warning"))
        assert project.repro() == set()


def test_runs_that_differ_in_execution_alone_have_one_lock_but_for_it_and_nothing_runs_after_them(
    project: Project,
) -> None:
    def read_lock() -> dict[str, Any]:
        from ruamel.yaml import YAML

        stages: dict[str, Any] = YAML(typ="safe").load(project.root / "dvc.lock")["stages"]
        return stages

    record = project.root / "data/execution/standardize.json"
    with project.edited("params.yaml"):
        before, first = read_lock(), json.loads(record.read_text())
        project.params(lambda values: values["runtime"].update(workers=1, log_level="warning"))
        project.call("dvc", "repro", "-s", "-f", "standardize")
        after, second = read_lock(), json.loads(record.read_text())
        ours = {out["path"]: out for out in after["standardize"]["outs"]}
        theirs = {out["path"]: out for out in before["standardize"]["outs"]}
        execution = "data/execution/standardize.json"
        assert ours.pop(execution) != theirs.pop(execution)
        assert ours == theirs
        assert {**after["standardize"], "outs": []} == {**before["standardize"], "outs": []}
        assert {**after, "standardize": 0} == {**before, "standardize": 0}
        assert project.repro() == set()
        assert first["record"] == second["record"]
        assert second["asked_and_ran"]["runtime.log_level"] == {
            "asked": "warning",
            "ran": "warning",
            "state": "equal",
            "why": "",
        }


def test_run_out_of_the_run_cache_brings_the_execution_record_of_the_run_that_made_the_files(project: Project) -> None:
    record = project.root / "data/execution/fetch_model.json"
    with project.edited("dvc.lock"):
        made = record.read_bytes()
        for path in ("data/base", "data/tokenizer"):
            shutil.rmtree(project.root / path)
        record.unlink()
        lock = (project.root / "dvc.lock").read_text().replace("  fetch_model:\n", "  forgotten:\n")
        (project.root / "dvc.lock").write_text(lock)
        said = project.call("dvc", "repro", "-s", "fetch_model").stdout
        assert "is cached - skipping run" in said
        assert record.read_bytes() == made


def test_repro_docstring_changed_and_accepted_runs_nothing(project: Project) -> None:
    file = project.root / "stages/train.py"
    with project.edited("stages/train.py"):
        text = file.read_text()
        file.write_text(text.replace('"""', '"""Another first line. ', 1) + "\n# and a comment\n")
        assert "train" in project.repro("--dry")
        project.call("retune", "accept")
        assert project.repro() == set()
        assert verify_project(project.root, project.root / ".dvc/cache").differences == []
        # the record has the code that ran, and dvc.lock rightly another: the audit takes that for what it is
        assert "by dvc.lock, each stage had the params" in project.call("dvc", "repro", "-s", "-f", "audit").stdout


def test_accept_code_that_changed_is_refused(project: Project) -> None:
    file = project.root / "stages/train.py"
    with project.edited("stages/train.py"):
        file.write_text(file.read_text() + "\nEXTRA = 1\n")
        assert project.call("retune", "accept", "train", check=False).returncode != 0
        assert "train" in project.repro("--dry")


def test_repro_typo_in_a_late_section_stops_before_any_output_is_touched(project: Project) -> None:
    outputs = {file: file.stat().st_mtime_ns for file in (project.root / "data").rglob("*") if file.is_file()}
    with project.edited("params.yaml"):

        def change(values: dict[str, Any]) -> None:
            values["report"]["tilte"] = values["report"].pop("title")
            values["train"]["steps"] = 0

        project.params(change)
        started = time.monotonic()
        ended = project.call("dvc", "repro", check=False)
        assert ended.returncode != 0
        assert time.monotonic() - started < 15
        for said in ("report.title: missing", "report.tilte: unknown key; did you mean `title`?", "train.steps"):
            assert said in ended.stderr
        assert {file: file.stat().st_mtime_ns for file in outputs} == outputs


def test_repro_needs_no_prefect_and_no_torch_for_data(project: Project) -> None:
    code = "import sys, stages.fetch_data, stages.standardize, stages.template; print([m for m in ('torch', 'prefect', 'unsloth', 'transformers') if m in sys.modules])"
    assert project.call("python", "-c", code).stdout.strip() == "[]"


def test_exp_run_with_another_learning_rate_runs_train_and_what_follows_and_gives_metrics_to_compare(
    project: Project,
) -> None:
    with project.edited("params.yaml"):
        ended = project.call("dvc", "exp", "run", "--set-param", "train.learning_rate=1e-3", "--name", "slower")
        assert "slower" in ended.stdout
        assert project.stages_run(ended.stdout) == {"check", *downstream("train")}
        shown = json.loads(project.call("dvc", "metrics", "diff", "--json").stdout)
        assert {"data/evaluation/metrics.json", "data/evaluation/export.json"} <= shown.keys()
    project.call("git", "checkout", "--quiet", "HEAD", "--", ".")
    project.call("dvc", "checkout", "--force", "--quiet")


def test_records_link_every_stage_to_the_one_before(project: Project) -> None:
    verdict = json.loads((project.root / "data/audit/verdict.json").read_text())
    checks = {check["name"]: check for check in verdict["checks"]}
    assert checks["chain"]["passed"]
    provenance = json.loads((project.root / "data/audit/provenance.json").read_text())
    assert list(provenance["chain"]) == sorted(name for name in STAGES if "--record" in flags_of(name))
    assert any(name.endswith(".gguf") for name in provenance["model"])


def test_report_is_one_page_without_script_or_address(project: Project) -> None:
    page = (project.root / "data/report/index.html").read_text()
    assert "<script" not in page
    assert "://" not in page
