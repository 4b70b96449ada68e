"""Our data path in a project of its own: the commands of dvc.yaml, with the recipe's preset and generated rows."""

import compileall
import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from retune.use.presets import read_preset
from tests.bench.measure import Measured, measured
from tests.project import ROOT, STAGES, upstream

DATA_STAGES = [stage for stage in upstream("template") if stage not in ("check", "fetch_model")]
"""From the dataset to tokens, in their order."""
DATE = "26 July 2024"
"""The day that the recipe's own template writes, so that the ids can be equal."""


@dataclass(frozen=True)
class Project:
    """A folder in which the stages' commands run as in a clone."""

    folder: Path

    @property
    def custom(self) -> Path:
        """Where its rows are to be."""
        return self.folder / "data/custom"

    def run(self) -> dict[str, Measured]:
        """Every data stage as its own command, one after the other, none of their outputs there before."""
        for made in ("raw", "messages", "tokens", "records"):
            shutil.rmtree(self.folder / "data" / made, ignore_errors=True)
        return {stage: self.run_stage(stage) for stage in DATA_STAGES}

    def run_stage(self, stage: str) -> Measured:
        """One command, as dvc.yaml has it. Raises CommandError if it fails."""
        python, *arguments = shlex.split(STAGES[stage]["cmd"])
        if python != "python":
            raise ValueError(f"dvc.yaml: {stage} is no python command")
        # in the folder of the project: `python -m` takes the stages that lie there
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        return measured([sys.executable, *arguments], self.folder, environment)


def make_project(folder: Path, rows: str, tokenizer: Path) -> Project:
    """A project whose params are the recipe's, but for the source: `rows`, a file or a folder that is to come into data/custom.

    The tokenizer stands where `fetch_model` would have put it.
    """
    data = folder / "data"
    data.mkdir(parents=True)
    shutil.copytree(ROOT / "stages", folder / "stages")
    compileall.compile_dir(folder / "stages", quiet=1)  # as in a project that has run once
    for path in ("data/exclusions.csv", "data/demo/dialogues.jsonl"):
        (folder / path).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / path, folder / path)
    shutil.copytree(tokenizer, data / "tokenizer")
    (data / "custom").mkdir()
    params = read_preset(ROOT, "llama-3.2-3b-finetome")
    (source,) = params["fetch_data"]["sources"]
    source |= {"source": f"data/custom/{rows}", "revision": None, "config": None, "split": None}
    params["template"]["date_string"] = DATE
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(params, file)
    return Project(folder)
