import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from ruamel.yaml import YAML

from retune.use.presets import write_preset
from stages.contracts.tokens import SCHEMA, read_tokens
from stages.training.params import TrainParams
from stages.training.task import plan_steps
from stages.training.token_rows import TokenRows
from tests.arrow_files import write_arrow
from tests.execution_records import put_execution
from tests.retune.conftest import REPO
from tests.stages.training.memory.support.shapes import write_base

pytestmark = pytest.mark.slow

Run = Callable[..., subprocess.CompletedProcess[str]]
GIB = 2**30
ROWS = 1000


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The packed preset for 8 GB with the 3B's headers (the weights are a hole in the file) and rows of 60 to 1,900 tokens."""
    root = tmp_path / "project"
    root.mkdir()
    shutil.copy(REPO / "dvc.yaml", root)
    (root / "params.yaml").write_text(write_preset(REPO, "llama-3.2-3b-packed-8gb"), encoding="utf-8")
    write_base(root / "data/base", "3b")
    draw = random.Random(0)
    lengths = [draw.randint(60, 1900) for _ in range(ROWS)]
    for name, part in (("train", lengths), ("heldout", lengths[:20])):
        ids = [[1] * length for length in part]
        columns = {"row_id": [f"{number:032x}" for number in range(len(part))], "input_ids": ids, "labels": ids}
        (root / "data/tokens").mkdir(exist_ok=True)
        write_arrow(root / f"data/tokens/{name}.arrow", pa.table(columns, schema=SCHEMA))
    summary = {"vocabulary_size": 128256, "control_tokens": {"as_text": [], "added": {}}}
    (root / "data/tokens/summary.json").write_text(json.dumps(summary))
    set_params(root, micro_batch="auto", gradient_checkpointing="auto")
    return root


def set_params(root: Path, section: str = "runtime", **changed: Any) -> None:
    yaml = YAML()
    values = yaml.load((root / "params.yaml").read_text())
    values[section].update(changed)
    with (root / "params.yaml").open("w") as file:
        yaml.dump(values, file)


def with_gpu(folder: Path, *lines: str) -> dict[str, str]:
    """An environment in which nvidia-smi answers these lines: name, MiB in all, MiB free, compute capability."""
    tool = folder / "bin" / "nvidia-smi"
    tool.parent.mkdir(exist_ok=True)
    tool.write_text("#!/bin/sh\ncat <<END\n" + "".join(line + "\n" for line in lines) + "END\n")
    tool.chmod(0o755)
    return {
        "PATH": f"{tool.parent}:{os.environ['PATH']}",
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(len(lines)))),
    }


def asked(retune: Run, root: Path, **environment: str) -> dict[str, Any]:
    done = retune("plan", "--json", cwd=root, **environment)
    assert done.returncode in (0, 3), done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (3 if found["plan"] and not found["plan"]["fits"] else 0)
    return found


def test_plan_without_a_gpu_says_which_cards_would_do(retune: Run, project: Path) -> None:
    found = asked(retune, project, **with_gpu(project))
    cards = {card["gib"]: card for card in found["cards"]}
    assert list(cards) == [6, 8, 12, 16, 24, 80]
    assert all(card["best"]["memory"]["reserved"] <= card["room"] for card in cards.values())
    assert cards[80]["best"]["kept_layers"] == 28
    assert cards[6]["best"]["kept_layers"] < 28
    assert (found["plan"], found["gpu"], found["time"]) == (None, None, None)
    text = retune("plan", cwd=project, **with_gpu(project)).stdout
    assert "no GPU here" in text
    assert "80 GB" in text


def test_plan_says_how_many_conversations_its_steps_reach(retune: Run, project: Path) -> None:
    assert asked(retune, project, **with_gpu(project))["steps"]["rows_reached"] == ROWS
    set_params(project, "train", steps=2, epochs=None)
    found = asked(retune, project, **with_gpu(project))["steps"]
    rows = TokenRows(read_tokens(project / "data/tokens/train.arrow"))
    params = TrainParams.model_validate(YAML(typ="safe").load(project / "params.yaml")["train"])
    in_steps = {row for step in plan_steps(rows, params).steps for sequence in step for row in sequence}
    assert found["rows_reached"] == len(in_steps) < ROWS
    said = retune("plan", cwd=project, **with_gpu(project)).stdout
    assert f"which reach {len(in_steps):,} of 1,000 training conversations\n" in said


def test_plan_counts_steps_tokens_and_parameters(retune: Run, project: Path) -> None:
    found = asked(retune, project, **with_gpu(project))
    draw = random.Random(0)
    tokens = sum(draw.randint(60, 1900) for _ in range(ROWS))
    steps = found["steps"]
    assert (steps["tokens"], steps["rows"], steps["epochs"]) == (tokens, ROWS, 1)
    assert tokens / 16384 <= steps["steps"] < 1.1 * tokens / 16384 + 1
    assert found["base"]["trained_parameters"] == 24_313_856
    assert (found["base"]["forward"], found["base"]["not_fused"]) == ("fused", None)
    assert found["disk"]["adapter"] == 4 * 24_313_856
    assert found["disk"]["merged"] == pytest.approx(2 * 3_212_749_824, rel=1e-4)
    assert found["disk"]["gguf"]["q4_k_m"] == pytest.approx(2.0e9, rel=0.05)


def test_plan_on_a_gpu_fits_what_is_free(retune: Run, project: Path) -> None:
    roomy = asked(retune, project, **with_gpu(project, "NVIDIA H100 80GB HBM3, 81559, 81000, 9.0"))
    tight = asked(retune, project, **with_gpu(project, "NVIDIA GeForce RTX 3060, 12288, 7000, 8.6"))
    assert roomy["plan"]["micro_batch"] == 8
    assert roomy["plan"]["kept_layers"] == 28
    assert roomy["plan"]["memory"]["allocated"] / GIB == pytest.approx(35.6, rel=0.05)
    assert tight["plan"]["memory"]["reserved"] <= tight["plan"]["room"] < 7000 * 2**20
    for found in (roomy, tight):
        assert found["plan"]["fits"]
        assert "estimate" in found["time"]["source"]
    assert roomy["time"]["seconds"] < tight["time"]["seconds"] / 10


def test_plan_keeps_within_the_memory_limit(retune: Run, project: Path) -> None:
    set_params(project, memory_limit_gb=5)
    found = asked(retune, project, **with_gpu(project, "NVIDIA H100 80GB HBM3, 81559, 81000, 9.0"))
    assert found["plan"]["room"] == 5 * GIB
    assert found["plan"]["memory"]["reserved"] <= 5 * GIB
    assert [card["gib"] for card in asked(retune, project, **with_gpu(project))["cards"]] == [5]


def test_plan_that_does_not_fit_is_said_and_has_an_exit_code(retune: Run, project: Path) -> None:
    set_params(project, micro_batch=8, gradient_checkpointing="off")
    done = retune("plan", cwd=project, **with_gpu(project, "NVIDIA GeForce RTX 4090, 24564, 23000, 8.9"))
    assert done.returncode == 3
    assert "DOES NOT FIT" in done.stdout


def test_plan_of_a_gpu_older_than_ampere_is_unsloths(retune: Run, project: Path) -> None:
    found = asked(retune, project, **with_gpu(project, "Tesla T4, 15360, 15000, 7.5"))
    assert (found["base"]["forward"], found["base"]["not_fused"]) == ("unsloth", "a GPU older than Ampere")


def test_plan_on_two_gpus_shares_a_step(retune: Run, project: Path) -> None:
    line = "NVIDIA H100 80GB HBM3, 81559, 81000, 9.0"
    one, two = (asked(retune, project, **with_gpu(project, *[line] * count)) for count in (1, 2))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert (one["plan"]["micro_batch"], two["plan"]["micro_batch"]) == (8, 4)
    assert one["steps"] == two["steps"]
    assert two["time"]["seconds"] == pytest.approx(one["time"]["seconds"] / 2, rel=0.15)


def test_plan_of_a_spread_base_takes_less_memory_and_in_4_bit_is_refused(retune: Run, project: Path) -> None:
    gpus = with_gpu(project, *["NVIDIA H100 80GB HBM3, 81559, 81000, 9.0"] * 2)
    set_params(project, sharding="fsdp")
    refused = retune("plan", cwd=project, **gpus)
    assert refused.returncode == 1
    assert "train.load_in_4bit to false" in refused.stderr
    set_params(project, "train", load_in_4bit=False)
    spread = asked(retune, project, **gpus)
    set_params(project, sharding="none")
    whole = asked(retune, project, **gpus)
    assert (spread["shards"], whole["shards"]) == (2, 1)
    assert spread["plan"]["memory"]["weights"] < 0.7 * whole["plan"]["memory"]["weights"]


def test_plan_takes_the_time_that_an_earlier_training_measured(retune: Run, project: Path) -> None:
    gpu = with_gpu(project, "NVIDIA H100 80GB HBM3, 81559, 81000, 9.0")
    record = {"device": "NVIDIA H100 80GB HBM3", "layout": "packed", "tokens_per_second": 1000.0}
    record["plan"] = {"base_weights": 3_212_749_824, "load_in_4bit": True}
    put_execution(project, "train", figures=record)
    found = asked(retune, project, **gpu)
    assert found["time"]["source"].startswith("measured")
    assert found["time"]["seconds"] == round(found["steps"]["tokens"] / 1000)
    for other in ({"layout": "padded"}, {"resumed_after_step": 16}):
        put_execution(project, "train", figures={**record, **other})
        assert "estimate" in asked(retune, project, **gpu)["time"]["source"]


def test_plan_before_the_tokens_are_made_takes_rows_as_long_as_they_may_be(retune: Run, project: Path) -> None:
    shutil.rmtree(project / "data/tokens")
    found = asked(retune, project, **with_gpu(project, "NVIDIA H100 80GB HBM3, 81559, 81000, 9.0"))
    assert not found["steps"]["known"]
    assert found["plan"]["tokens"] == 16384
    assert "seconds" not in found["time"]


def test_plan_without_a_base_says_what_brings_it(retune: Run, project: Path) -> None:
    shutil.rmtree(project / "data/base")
    done = retune("plan", cwd=project)
    assert done.returncode == 1
    assert "dvc repro fetch_model" in done.stderr
