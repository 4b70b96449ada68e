"""What the exported files say of their origin, after a real run: an auditor with the files and the records alone can check it."""

import hashlib
import json
from typing import Any

import pytest
from ruamel.yaml import YAML

from stages.contracts.gguf import KEYS
from tests.end_to_end.conftest import Project
from tests.project import STAGES, flags_of, upstream

pytestmark = pytest.mark.slow


def before() -> list[str]:
    """The stages before the export that have a record."""
    return sorted(stage for stage in upstream("gguf") if stage != "gguf" and "--record" in flags_of(stage))


def metadata(project: Project, name: str) -> dict[str, Any]:
    from gguf import GGUFReader

    fields = GGUFReader(project.root / "data/gguf" / name).fields
    return {key: field.contents() for key, field in fields.items() if not key.startswith("GGUF.")}


def test_gguf_files_say_the_records_the_command_and_the_licence_of_their_run(project: Project) -> None:
    checks = json.loads((project.root / "data/gguf/checks.json").read_text())
    values = YAML(typ="safe").load(project.root / "params.yaml")
    records = [project.root / f"data/records/{stage}.json" for stage in before()]
    lines = "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in records)
    for name in [*checks["files"], checks["lora"]["file"]]:
        said = metadata(project, name)
        assert said[KEYS["records"]] == hashlib.sha256(lines.encode()).hexdigest()
        assert said[KEYS["command"]] == STAGES["gguf"]["cmd"]
        assert said["general.license"] == values["gguf"]["license"]
        assert said["general.base_model.0.name"] == said["general.dataset.0.name"] == "demo"


def test_gguf_records_hash_can_be_made_again_from_the_provenance_alone(project: Project) -> None:
    chain = json.loads((project.root / "data/audit/provenance.json").read_text())["chain"]
    said = metadata(project, next(iter(json.loads((project.root / "data/gguf/checks.json").read_text())["files"])))
    lines = ""
    for stage in before():
        text = json.dumps(chain[stage], indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        lines += f"{hashlib.sha256(text.encode()).hexdigest()}  {stage}.json\n"
    assert said[KEYS["records"]] == hashlib.sha256(lines.encode()).hexdigest()


def test_gguf_adapter_of_a_real_training_is_the_merged_model_over_its_base(project: Project) -> None:
    lora = json.loads((project.root / "data/gguf/checks.json").read_text())["lora"]
    assert lora["quality"]["kl"] < 0.01
    assert (project.root / "data/gguf" / lora["over"]["file"]).stat().st_size == lora["over"]["bytes"]
