import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from retune.use.presets import read_preset, write_preset
from tests.project import STAGES, upstream

REPO = Path(__file__).parents[2]
TOY_STAGES = """\
stages:
  words:
    cmd: python -m stages.words
    deps: [stages/words.py, stages/letters.py, stages/parts, text.txt]
    params: [words]
    outs: [out/words]
  count:
    cmd: python -c "from pathlib import Path; Path('out/count').write_text(str(len(Path('out/words').read_text())))"
    deps: [out/words]
    outs: [out/count]
"""
WORDS = '''\
"""Words of a text."""
from pathlib import Path

from ruamel.yaml import YAML

from stages.letters import lower
from stages.parts.tone import soften


class WordsParams:
    """Params."""
    least: int


def words(text: str, params: WordsParams) -> list[str]:
    """The words."""
    found = [word for word in text.split() if len(word) >= params.least]  # long ones
    return [soften(lower(word)) for word in found]


if __name__ == "__main__":
    params = WordsParams()
    params.__dict__.update(YAML().load(Path("params.yaml"))["words"])
    Path("out").mkdir(exist_ok=True)
    Path("out/words").write_text(" ".join(words(Path("text.txt").read_text(), params)))
'''
LETTERS = '''\
"""Letters."""


def lower(word: str) -> str:
    return word.lower()
'''


TONE = '''\
"""Tone."""


def soften(word: str) -> str:
    """A word without its marks."""
    return word.strip("!?")
'''


def call(*arguments: str, cwd: Path, stdin: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # other tests of the session put themselves offline, in this very process
    outer = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    env = {**outer, "PATH": path, "DVC_NO_ANALYTICS": "1", **environment}
    return subprocess.run(arguments, cwd=cwd, env=env, input=stdin, capture_output=True, text=True, check=False)


@pytest.fixture
def retune() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line of this checkout, called in a folder."""
    code = f"import sys; sys.path.insert(0, {str(REPO)!r}); from retune.__main__ import main; main()"

    def run(
        *arguments: str, cwd: Path, stdin: str | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return call(sys.executable, "-P", "-c", code, *arguments, cwd=cwd, stdin=stdin, **environment)

    return run


@pytest.fixture
def run_dvc() -> Callable[..., str]:
    def run(root: Path, *arguments: str) -> str:
        done = call(sys.executable, "-P", "-m", "dvc", *arguments, cwd=root)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def made_toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made") / "toy"
    (root / "stages").mkdir(parents=True)
    call("git", "init", "-q", cwd=root)
    call("dvc", "init", "-q", cwd=root)
    (root / "dvc.yaml").write_text(TOY_STAGES)
    (root / "stages/__init__.py").touch()  # else this project's own stages, where it is installed, would be found first
    (root / "stages/words.py").write_text(WORDS)
    (root / "stages/letters.py").write_text(LETTERS)
    (root / "stages/parts/deep").mkdir(parents=True)
    (root / "stages/parts/__init__.py").write_text('"""Parts."""\n')
    (root / "stages/parts/tone.py").write_text(TONE)
    (root / "stages/parts/deep/page.jinja").write_text("{{ words }}")
    (root / ".dvcignore").write_text("__pycache__\n*.swp\n")
    (root / ".gitignore").write_text("__pycache__\n.retune\n")
    (root / "text.txt").write_text("In the attic is a Red lamp")
    (root / "params.yaml").write_text("words:\n  least: 2\n")
    call("git", "add", ".", cwd=root)
    call("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "all", cwd=root)
    done = call("dvc", "repro", cwd=root)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def toy(made_toy: Path, tmp_path: Path) -> Path:
    """A DVC project of two stages that have run on committed code."""
    return Path(shutil.copytree(made_toy, tmp_path / "toy"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """This project's params and graph in a folder of their own, without DVC."""
    root = tmp_path / "project"
    (root / "data/custom").mkdir(parents=True)
    (root / "data/custom_base").mkdir()
    (root / "data/custom_base/.gitkeep").touch()
    shutil.copytree(REPO / "presets", root / "presets")
    shutil.copy(REPO / "dvc.yaml", root)
    (root / "params.yaml").write_text(write_preset(root, "demo"), encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the demo's base, the tokens of a few of its rows, the base as a GGUF file, and an adapter that says one word.

    The stages make what the stages make; the GGUF file is the base itself, so that both can be asked the same.
    """
    root = tmp_path_factory.mktemp("spoken") / "project"
    (root / "data/custom").mkdir(parents=True)
    (root / "data/custom_base").mkdir()
    (root / "data/demo").symlink_to(REPO / "data/demo")
    (root / "data/exclusions.csv").symlink_to(REPO / "data/exclusions.csv")
    shutil.copytree(REPO / "stages", root / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / "dvc.yaml", root)
    values = read_preset(REPO, "demo")
    values["fetch_data"]["limit"] = 40
    values["runtime"]["device"] = "cpu"
    YAML().dump(values, root / "params.yaml")
    for stage in upstream("template"):
        done = call(*STAGES[stage]["cmd"].split(), cwd=root, PYTHONPATH=str(REPO))
        assert done.returncode == 0, done.stdout + done.stderr
    code = "from tests.retune.spoken import make; make()"
    done = call(sys.executable, "-c", code, cwd=root, PYTHONPATH=str(REPO))
    assert done.returncode == 0, done.stdout + done.stderr
    return root


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a model's files, and some that are not brought."""
    folder = tmp_path / "model"
    (folder / "checkpoint-1").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "optimizer.pt", "checkpoint-1/config.json"):
        (folder / name).write_text("{}")
    return folder
