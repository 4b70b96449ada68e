"""What a person edits while a stage is at work, by the real stages' commands: each param, code and input that it read is named, and nothing is made of it."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.end_to_end.conftest import Project
from tests.other_params import another, leaves
from tests.project import STAGES, flags_of, outs_of

HEAVY = {"train", "evaluate", "merge", "gguf"}
EACH = [pytest.param(stage, marks=pytest.mark.long if stage in HEAVY else pytest.mark.slow) for stage in STAGES]
UNREAD = {("fetch_model", "custom"), ("fetch_data", "custom"), ("standardize", "custom"), ("template", "custom")}
UNREAD |= {("train", "custom_adapter")}
"""{(stage, flag)} of what the demo's params ask nothing of."""

# of this test's project alone: Python imports it at its start, and Python says when a stage's first output is begun
HOOK = """
import atexit, os, shutil, sys
edits = os.environ.get("TEST_EDITS", "")
def edit():
    global edits
    new, edits = edits, ""
    if new:
        shutil.copytree(new, ".", dirs_exist_ok=True)
def hook(event, arguments):
    if edits and event in ("open", "os.mkdir") and ".partial" in str(arguments[0]) and ".retune" not in str(arguments[0]):
        edit()
if edits and sys.argv[:1] == ["-m"] and "stages." in " ".join(sys.orig_argv):
    del os.environ["TEST_EDITS"]  # what the stage starts is not to do it again
    sys.addaudithook(hook) if os.environ["TEST_WHEN"] == "at work" else atexit.register(edit)
"""


class Edits:
    """Files as they will be when a stage is at work, and as they were."""

    def __init__(self, project: Project, folder: Path) -> None:
        self.project, self.folder = project, folder
        self.old: dict[Path, bytes | None] = {}
        (folder / "hook").mkdir()
        (folder / "hook/sitecustomize.py").write_text(HOOK)

    def write(self, name: str, content: bytes) -> None:
        file = self.project.root / name
        self.old[file] = file.read_bytes() if file.is_file() else None
        new = self.folder / "new" / name
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(content)

    def append(self, path: str) -> None:
        """Edit an input so that it can still be read: a line end after what is text, in a folder without any a new file."""
        place = self.project.root / path
        files = [place] if place.is_file() else [file for file in place.rglob("*.json*") if file.is_file()]
        for file in files:
            self.write(file.relative_to(self.project.root).as_posix(), file.read_bytes() + b"\n")
        if not files:
            self.write(f"{path}/new.txt", b"new")

    def change_param(self, section: str, *path: str) -> str:
        """Edit a value of a section, its first or the one at a path; gives its name."""
        yaml = YAML()
        values = yaml.load(self.project.root / "params.yaml")
        *above, key = path or leaves(values[section])[0]
        place = values[section]
        for part in above:
            place = place[part]
        place[key] = another(place[key])
        with (self.folder / "params.yaml").open("w") as file:
            yaml.dump(values, file)
        self.write("params.yaml", (self.folder / "params.yaml").read_bytes())
        return ".".join([section, *above, key])

    def environment(self, when: str) -> dict[str, str]:
        return {
            "TEST_EDITS": str(self.folder / "new"),
            "TEST_WHEN": when,
            "PYTHONPATH": f"{self.folder / 'hook'}{os.pathsep}{self.project.root}",
        }

    def undo(self) -> None:
        for file, content in self.old.items():
            file.write_bytes(content) if content is not None else file.unlink(missing_ok=True)


@pytest.fixture
def edits(project: Project, tmp_path: Path) -> Iterator[Edits]:
    found = Edits(project, tmp_path)
    yield found
    found.undo()


def inputs_of(stage: str) -> dict[str, str]:
    """{flag: path} of what a stage reads, params.yaml left out."""
    flags = {flag[2:]: paths[0] for flag, paths in flags_of(stage).items()}
    written = {*outs_of(stage), "params.yaml"}
    return {key: path for key, path in flags.items() if key != "environment" and path not in written}


@pytest.mark.parametrize("stage", EACH)
def test_params_code_and_inputs_edited_while_a_stage_is_at_work_are_named_each(
    project: Project, edits: Edits, stage: str
) -> None:
    code = f"stages/{stage}.py"
    field = edits.change_param("train" if stage == "check" else stage)
    edits.write(code, (project.root / code).read_bytes() + b"# edited\n")
    for path in inputs_of(stage).values():
        edits.append(path)
    outputs = {path: fingerprint(project.root / path) for path in outs_of(stage)}
    command = [sys.executable, *STAGES[stage]["cmd"].split()[1:]]
    ended = project.call(*command, check=False, **edits.environment("at work"))
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    said, _, changed = ended.stderr.rpartition("\n  ")
    line, _, changed = changed.partition("\n")
    assert line.startswith(f"{field}: "), ended.stderr
    assert line.endswith(" now")
    assert "params.yaml was edited while" in said
    named = changed.partition(" was changed while ")[0].split(", ")
    read = {path for key, path in inputs_of(stage).items() if (stage, key) not in UNREAD}
    assert set(named) == {*read, code}
    assert {path: fingerprint(project.root / path) for path in outs_of(stage)} == outputs, (
        "the old ones are as they were"
    )
    assert not list((project.root / "data").rglob(".*.partial*"))


def fingerprint(path: Path) -> list[tuple[str, int, int]]:
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]


@pytest.mark.long
def test_training_whose_params_were_edited_goes_on_where_it_stood_once_they_are_put_back(
    project: Project, edits: Edits
) -> None:
    record = (project.root / "data/records/train.json").read_bytes()
    command = [sys.executable, *STAGES["train"]["cmd"].split()[1:]]
    with project.edited("params.yaml"):
        project.params(lambda values: values["runtime"].update(save_steps=1))
        field = edits.change_param("train", "learning_rate")
        ended = project.call(*command, check=False, **edits.environment("at work"))
        assert ended.returncode == 1
        assert f"{field}: " in ended.stderr
        assert "makes that and goes on from its last checkpoint" in ended.stderr
        edits.undo()
        assert "resumed after step 3 of 3" in project.call(*command).stdout
        assert (project.root / "data/records/train.json").read_bytes() == record


@pytest.mark.long
def test_params_edited_between_the_end_of_merge_and_dvcs_reading_are_refused_by_the_audit_and_made_again(
    project: Project, edits: Edits
) -> None:
    with project.edited("params.yaml"):
        field = edits.change_param("merge", "check_rows")
        project.call("dvc", "repro", "--force", "--single-item", "merge", **edits.environment("at its end"))
        said = f"{field}: the record says 2, dvc.lock says 3"
        ended = project.call("dvc", "repro", check=False)
        assert ended.returncode != 0
        assert f"audit: {said}. The model is what the record says." in ended.stderr
        verdict = json.loads((project.root / "data/audit/verdict.json").read_text())
        assert verdict["reasons"] == [f"lock: {said}"]
        assert "merge" in project.repro()
        assert json.loads((project.root / "data/records/merge.json").read_text())["params"]["check_rows"] == 3
        assert project.repro() == set()
