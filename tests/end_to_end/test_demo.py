"""The demo as it ships, whole: what `make repro` promises in a fresh clone."""

import json

import pytest

from stages.contracts.messages import FATES
from tests.end_to_end.conftest import Project, copy_project
from tests.project import STAGES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = copy_project(tmp_path_factory.mktemp("demo"))
    assert project.repro() == set(STAGES)
    return project


def test_demo_base_cannot_do_the_task_and_the_tuned_model_can(demo: Project) -> None:
    metrics = json.loads((demo.root / "data/evaluation/metrics.json").read_text())
    assert metrics["base"]["exact_match"] < 0.05
    assert metrics["tuned"]["exact_match"] > 0.9
    assert metrics["tuned"]["loss"] < metrics["base"]["loss"]
    assert metrics["rows"] > 100


def test_demo_gguf_files_answer_like_the_merged_model(demo: Project) -> None:
    checks = json.loads((demo.root / "data/gguf/checks.json").read_text())
    assert {file["quantization"] for file in checks["files"].values()} == {"q8_0", "q4_k_m"}
    assert checks["answers"] >= 50
    for file in checks["files"].values():
        quality = file["quality"]
        assert quality["exact_match"] >= checks["merged"]["exact_match"] - 0.02
        if file["quantization"] == "q8_0":
            assert quality["answers_equal"] == checks["answers"], "greedy, so the merged model's own answers"


def test_demo_rows_broken_on_purpose_are_all_set_aside(demo: Project) -> None:
    rows = json.loads((demo.root / "data/messages/summary.json").read_text())
    tokens = json.loads((demo.root / "data/tokens/summary.json").read_text())
    assert rows["raw"] == sum(rows[fate] for fate in FATES) == 3014
    assert rows["rejected"] + rows["repeated"] + sum(tokens["rejected"].values()) == 14


def test_demo_passes_its_gate_and_the_summary_says_so(demo: Project) -> None:
    gate = json.loads((demo.root / "data/gate.json").read_text())
    assert (gate["passed"], gate["reasons"]) == (True, [])
    said = json.loads(demo.call("retune", "summary", "--json").stdout)
    assert (said["passed"], said["verdict"], said["report_of_verdict"]) == (True, "passed", True)
    assert said["report"] == "data/report/index.html"
    assert all(size > 0 for size in said["files"].values())


def test_demo_says_everywhere_how_much_of_the_data_its_60_steps_reached(demo: Project) -> None:
    training = json.loads(demo.call("retune", "summary", "--json").stdout)["training"]
    assert (training["counts"]["conversations_trained"], training["counts"]["conversations"]) == (480, 2832)
    last = json.loads((demo.root / "data/adapter/steps.jsonl").read_text().splitlines()[-1])
    assert training["counts"]["labelled_tokens_trained"] == last["tokens"]
    checks = json.loads((demo.root / "data/audit/verdict.json").read_text())["checks"]
    assert [check["says"] for check in checks if check["name"] == "ledger"] == [training["says"]]
    assert json.loads((demo.root / "data/evaluation/export.json").read_text())["training"] == training["counts"]
    for page in ("index.html", "README.md"):
        assert training["says"] in (demo.root / "data/report" / page).read_text()


def test_demo_adapter_and_merged_model_load_as_users_load_them(demo: Project) -> None:
    code = """
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base = AutoModelForCausalLM.from_pretrained('data/base', dtype=torch.float32)
tuned = PeftModel.from_pretrained(base, 'data/adapter')
merged = AutoModelForCausalLM.from_pretrained('data/merged', dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained('data/merged')
asked = [{'role': 'user', 'content': 'Wim is in the garden. Wim has the red coat. Where is Wim?'}]
ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors='pt', return_dict=True)
for model in (tuned, merged):
    given = model.generate(**ids, max_new_tokens=16, do_sample=False)
    print(tokenizer.decode(given[0][ids['input_ids'].shape[1]:], skip_special_tokens=True))
"""
    said = demo.call("python", "-c", code).stdout.strip().splitlines()
    assert said[-2:] == ["Wim is in the garden."] * 2
