"""The three data stages as a user runs them, in this process, on whatever stands in data/custom; and what came of it.

The commands are those of dvc.yaml, carried out by `stages.core.runner.carry_out`, so hashing, renaming and records are part of it.
A StageError is an outcome; any other exception would be a traceback to the user and leaves here as it is.
"""

import contextlib
import copy
import importlib
import io
import json
import logging
import shlex
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from retune.use.presets import read_preset
from stages.contracts import messages, raw, tokens
from stages.core.errors import StageError
from stages.core.runner import carry_out
from tests.bench.ours import DATA_STAGES
from tests.project import ROOT, STAGES

MARKER = "Zanzibarophone"
"""A word that stands in every text of the hostile files and may come out in the conversations alone."""

CONVERSATIONS = {raw.ROWS, messages.MESSAGES, tokens.TRAIN, tokens.HELDOUT}
"""The files that hold what was in the dataset."""


@dataclass
class Outcome:
    """What became of a dataset."""

    error: str | None = None
    """The text of the StageError that ended it."""
    failed: str | None = None
    """The stage that raised it."""
    said: str = ""
    """Everything on stdout, stderr and in the log."""
    kept: dict[str, int] = field(default_factory=dict)
    """Rows in data/tokens by split."""
    rejected: list[dict[str, Any]] = field(default_factory=list)
    """Rows set aside by standardize and by template: row, file, line, rule."""

    def rules(self) -> dict[tuple[str, int], str]:
        """{(file, line): rule}."""
        return {(row["file"], row["line"]): row["rule"] for row in self.rejected}

    def by_rule(self) -> Counter[str]:
        """Rows by rule."""
        return Counter(row["rule"] for row in self.rejected)


@dataclass
class Project:
    """A project in a folder, with the demo's tokenizer and params."""

    folder: Path

    @property
    def custom(self) -> Path:
        """Where datasets of the user's lie."""
        return self.folder / "data/custom"

    def write(self, name: str, content: bytes) -> Path:
        """A file in data/custom."""
        path = self.custom / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def run(self, name: str, last: str = DATA_STAGES[-1], **changed: dict[str, object]) -> Outcome:
        """Run the stages to the `last` on data/custom/NAME. `changed`: {section: {key: value}} over the demo's params."""
        write_params(self.folder, name, changed)
        outcome = Outcome()
        with contextlib.chdir(self.folder), listening() as said:
            for stage in DATA_STAGES[: DATA_STAGES.index(last) + 1]:
                try:
                    run_command(stage)
                except StageError as error:
                    outcome.error, outcome.failed = str(error), stage
                    break
        outcome.said = said.getvalue()
        read_outcome(self.folder / "data", outcome)
        assert_accounted(self.folder / "data", outcome)
        assert_no_text_left(self.folder, outcome)
        return outcome


@contextlib.contextmanager
def listening() -> Iterator[io.StringIO]:
    """All that is printed or logged meanwhile."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            yield said
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def make_project(folder: Path) -> Project:
    """The files that the commands read: the demo's tokenizer and exclusions, no dataset."""
    for name in ("custom", "demo", "tokenizer"):
        (folder / "data" / name).mkdir(parents=True)
    for source in (ROOT / "data/demo/base").iterdir():
        if source.suffix in (".json", ".jinja") and source.name not in ("config.json", "generation_config.json"):
            shutil.copyfile(source, folder / "data/tokenizer" / source.name)
    shutil.copyfile(ROOT / "data/exclusions.csv", folder / "data/exclusions.csv")
    (folder / "data/demo/dialogues.jsonl").write_bytes(b"")
    shutil.copytree(ROOT / "stages/environment", folder / "stages/environment")
    return Project(folder)


def write_params(folder: Path, name: str, changed: dict[str, dict[str, object]]) -> None:
    """params.yaml: the demo's, with data/custom/NAME as the one source."""
    params = copy.deepcopy(demo_params())
    params["fetch_data"]["sources"][0] |= {"source": f"data/custom/{name}"}
    for section, values in changed.items():
        params[section] |= values
    # JSON is YAML, and safe for any name
    (folder / "params.yaml").write_text(json.dumps(params, ensure_ascii=False), encoding="utf-8")


@cache
def demo_params() -> dict[str, Any]:
    """The demo's preset."""
    return read_preset(ROOT, "demo")


def run_command(stage: str) -> None:
    """One stage's command. Raises what it raises."""
    argv = sys.argv
    sys.argv = shlex.split(STAGES[stage]["cmd"])[2:]
    try:
        module = importlib.import_module(f"stages.{stage}")
        carry_out(getattr(module, stage), time.time(), getattr(module, "uses", None), ())
    finally:
        sys.argv = argv


def read_outcome(data: Path, outcome: Outcome) -> None:
    """Read what the stages wrote, as far as they came."""
    for path in (data / "messages" / messages.REJECTED, data / "tokens" / tokens.REJECTED):
        if path.exists():
            outcome.rejected += pq.read_table(path, columns=["row_id", "row", "file", "line", "rule"]).to_pylist()
    if (data / "tokens").exists():
        for split, name in tokens.SPLITS.items():
            outcome.kept[split] = tokens.read_tokens(data / "tokens" / name).num_rows


def assert_accounted(data: Path, outcome: Outcome) -> None:
    """raw = train + held-out + rejected + excluded, to the row, and each row once."""
    if outcome.failed in ("fetch_data", "standardize"):
        return
    rows = pq.read_table(data / "raw" / raw.ROWS, columns=["row"])["row"].to_pylist()
    ended = [
        row
        for name in (messages.MESSAGES, messages.REJECTED, messages.EXCLUDED)
        for row in pq.read_table(data / "messages" / name, columns=["row"])["row"].to_pylist()
    ]
    assert sorted(ended) == rows == list(range(len(rows)))
    if (data / "tokens").exists():
        excluded = pq.ParquetFile(data / "messages" / messages.EXCLUDED).metadata.num_rows
        assert sum(outcome.kept.values()) + len(outcome.rejected) + excluded == len(rows)


def assert_no_text_left(folder: Path, outcome: Outcome) -> None:
    """The marker is in no message, log, summary, record or list of rejected rows; nothing half-written stays."""
    assert MARKER not in (outcome.error or "")
    assert MARKER not in outcome.said
    for path in sorted(folder.rglob("*")):
        assert not path.name.endswith(".partial"), path
        if not path.is_file() or path.name in CONVERSATIONS or path.is_relative_to(folder / "data/custom"):
            continue
        content = str(pq.read_table(path).to_pydict()) if path.suffix == ".parquet" else path.read_bytes().decode()
        assert MARKER not in content, path.relative_to(folder)
