"""The records that an export reads, as the stages before it write them, in small; and the call of the export with all of its inputs."""

import json
import sys
from pathlib import Path
from typing import Any

from stages.core.files import write_json
from stages.core.params import Runtime
from stages.gguf import GgufParams, gguf
from tests.stages.training.support import tiny

RUNTIME = Runtime.model_validate({**tiny.RUNTIME, "workers": 2, "micro_batch": 1, "evaluation_batch": 1})
REVISION = "0123456789abcdef0123456789abcdef01234567"
SOURCES: list[dict[str, Any]] = [
    {"source": "somebody/dialogues", "revision": REVISION, "config": None, "split": "train"},
    {"source": "custom/mine.jsonl", "revision": None, "config": None, "split": None},
]
BEFORE = ("fetch_data", "fetch_model", "merge", "standardize", "template", "train")
"""The stages before the export, as dvc.yaml has them today."""
COMMAND = ["--merged", "data/merged", "--files", "data/gguf"]
"""Flags of the command that the files are told to be from."""
MODEL: dict[str, Any] = {"source": "somebody/small-base", "revision": REVISION}


def make_records(folder: Path) -> None:
    """One record for each stage before the export."""
    told = {
        "fetch_model": (MODEL, {"base": {"path": "data/base", "sha256": "b" * 64}}),
        "fetch_data": ({"sources": SOURCES, "limit": None}, {"raw": {"path": "data/raw", "sha256": "d" * 64}}),
        "merge": ({"into": "base16"}, {}),
    }
    for stage in BEFORE:
        params, outputs = told.get(stage, ({}, {}))
        write_json(folder / f"{stage}.json", {"stage": stage, "params": params, "outputs": outputs})


def params(*quantizations: str, answers: int = 4, **more: Any) -> GgufParams:
    """Params of an export of four rows; without an adapter's file unless `more` asks for one."""
    sampling = {"temperature": 0.7, "min_p": 0.1, "max_new_tokens": 256}
    chosen: dict[str, Any] = {"license": "apache-2.0", "lora": "none", "lora_base": None, "sampling": sampling, **more}
    chosen = {"imatrix": "none", "imatrix_tokens": 256, **chosen}
    values = {"name": "small", "quantizations": list(quantizations), "check_rows": 4, "check_answers": answers}
    return GgufParams.model_validate({**values, **chosen})


def export(root: Path, wanted: GgufParams) -> dict[str, Any]:
    """Run the export on the folders of `root`; checks.json. Records and a base are made where there are none."""
    if not (root / "records").exists():
        make_records(root / "records")
    (root / "base").mkdir(exist_ok=True)
    own = sys.argv
    sys.argv = [own[0], *COMMAND]
    try:
        gguf(
            merged=root / "merged",
            adapter=root / "adapter",
            tokens=root / "tokens",
            base=root / "base",
            files=root / "gguf",
            params=wanted,
            runtime=RUNTIME,
            records={file.stem: file for file in (root / "records").glob("*.json")},
        )
    finally:
        sys.argv = own
    found: dict[str, Any] = json.loads((root / "gguf" / "checks.json").read_text(encoding="utf-8"))
    return found
