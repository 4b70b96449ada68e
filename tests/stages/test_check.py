import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from retune.use.presets import read_preset
from stages.check import problems, read_sections
from stages.llama_cpp.quantization_names import OURS
from tests.project import ROOT


@pytest.fixture
def demo() -> dict[str, Any]:
    return read_preset(ROOT, "demo")


def test_recipe_preset_is_the_published_recipe() -> None:
    recipe = read_preset(ROOT, "llama-3.2-3b-finetome")
    train, runtime = recipe["train"], recipe["runtime"]
    assert (recipe["fetch_model"]["revision"], recipe["fetch_data"]["sources"][0]["revision"]) == (
        "006f5dcd1393c3add266de40994ba96225e9689d",
        "c2343c1372ff31f51aa21248db18bffa3193efdb",
    )
    assert train["lora"] == {
        "r": 16, "alpha": 16, "dropout": 0.0, "bias": "none", "use_rslora": False, "use_dora": False, "modules_to_save": [],
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    }  # fmt: skip
    assert (train["conversations_per_step"], runtime["micro_batch"]) == (2 * 4, 2)
    assert [train[key] for key in ("steps", "learning_rate", "warmup_steps", "schedule", "optimizer", "weight_decay", "seed", "load_in_4bit", "dtype", "logging_steps", "eval_steps")] == [
        60, 2e-4, 10, "linear", "adamw_8bit", 0.01, 3407, True, "auto", 10, 100,
    ]  # fmt: skip
    assert (recipe["template"]["chat_template"], recipe["template"]["max_length"]) == ("llama-3.1", 2048)
    assert recipe["gguf"]["quantizations"] == ["q4_k_m"]
    assert runtime["gradient_checkpointing"] == "unsloth"


def test_problems_are_all_said_at_once_in_the_order_of_the_stages(demo: dict[str, Any]) -> None:
    demo["report"].pop("title")
    demo["train"]["steps"] = 0
    demo["gguf"]["quantizations"] = ["q9_9"]
    demo["trane"] = {}
    found = problems(demo, ROOT)
    assert [line.split(":")[0] for line in found] == ["trane", "train.steps", "gguf.quantizations", "report.title"]
    assert "did you mean `train`" in found[0]
    assert "q4_k_m" in found[2], "an unknown quantization is answered with the known ones"


@pytest.mark.parametrize("section", read_sections())
def test_missing_section_is_named(demo: dict[str, Any], section: str) -> None:
    demo.pop(section)
    assert problems(demo, ROOT) == [f"{section}: this section is missing"]


@pytest.mark.parametrize(
    ("section", "key", "value", "says"),
    [
        ("fetch_model", "source", "custom", "retune use --model"),
        ("template", "chat_template", "absent.jinja", "data/custom/absent.jinja is not there"),
    ],
)
def test_named_file_that_is_missing_is_said(
    demo: dict[str, Any], tmp_path: Path, section: str, key: str, value: str, says: str
) -> None:
    demo[section][key] = value
    found = problems(demo, tmp_path)
    assert len(found) == 1
    assert says in found[0]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("data/custom/absent.jsonl", "retune use --data"),
        ("data/custom/../a.jsonl", "outside"),
        ("data/custom/empty", "no file"),
        ("data/custom/both", "set `split`"),
    ],
)
def test_source_that_cannot_be_read_is_said_with_its_place(
    demo: dict[str, Any], tmp_path: Path, source: str, says: str
) -> None:
    (tmp_path / "data/custom/empty").mkdir(parents=True)
    for split in ("train", "test"):
        (tmp_path / "data/custom/both" / split).mkdir(parents=True)
        (tmp_path / "data/custom/both" / split / "a.jsonl").touch()
    demo["fetch_data"]["sources"].append({**demo["fetch_data"]["sources"][0], "source": source})
    found = problems(demo, tmp_path)
    assert len(found) == 1
    assert found[0].startswith("fetch_data.sources.1: ")
    assert says in found[0]


def test_source_keys_of_earlier_versions_are_answered_with_the_new_shape_in_one_line(demo: dict[str, Any]) -> None:
    demo["fetch_data"] = {"source": "demo", "revision": None, "config": None, "split": None, "limit": None}
    found = problems(demo, ROOT)
    assert len(found) == 1
    assert found[0].startswith("fetch_data: ")
    assert "sources: [{source: ..., revision: null" in found[0]
    assert "\n" not in found[0]


def test_wrong_key_of_one_source_is_answered_with_the_keys_of_a_source(demo: dict[str, Any]) -> None:
    demo["fetch_data"]["sources"][0] |= {"revison": None, "columns": {"prompt": "a", "answr": "b", "system": None}}
    assert problems(demo, ROOT) == [
        "fetch_data.sources.0.columns.answer: missing (there are no defaults)",
        "fetch_data.sources.0.columns.answr: unknown key; did you mean `answer`?",
        "fetch_data.sources.0.revison: unknown key; did you mean `revision`?",
    ]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"evaluate": {"exact_match": False}}, ["audit.min_exact_match"]),
        ({"evaluate": {"answer_rows": 0}}, ["audit.min_exact_match"]),
        (
            {"standardize": {"heldout_fraction": 0.0}},
            ["audit.min_heldout_rows", "audit.min_loss_gain", "audit.min_exact_match"],
        ),
        (
            {
                "standardize": {"heldout_fraction": 0.0, "group_by": "answer"},
                "audit": {
                    "min_heldout_rows": 0,
                    "min_loss_gain": None,
                    "min_exact_match": None,
                    "max_seen_answers": 0.1,
                    "max_near_heldout_share": 0.1,
                },
            },
            ["standardize.group_by", "audit.max_near_heldout_share", "audit.max_seen_answers"],
        ),
        ({"evaluate": {"exact_match": False}, "audit": {"min_exact_match": None}}, []),
    ],
)
def test_floor_that_no_run_can_reach_is_said(demo: dict[str, Any], change: dict[str, Any], named: list[str]) -> None:
    for section, keys in change.items():
        demo[section].update(keys)
    assert [line.split(":")[0] for line in problems(demo, ROOT)] == named


def test_check_with_a_foreign_python_says_to_activate_the_environment() -> None:
    ended = subprocess.run(
        [sys.executable, "-S", "-m", "stages.check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "Activate the environment" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_pack_that_is_shorter_than_the_longest_row_is_said(demo: dict[str, Any]) -> None:
    demo["train"] |= {"layout": "packed", "conversations_per_step": None, "tokens_per_step": 1024, "pack_length": 256}
    assert problems(demo, ROOT) == [
        "train.pack_length: must be at least template.max_length (512): no conversation is cut for a pack"
    ]
    demo["template"]["max_length"] = 256
    assert problems(demo, ROOT) == []


def test_merge_into_an_nf4_base_that_training_did_not_see_is_refused_before_anything_runs(demo: Any) -> None:
    demo["merge"]["into"] = "dequantized_nf4"
    assert problems(demo, ROOT) == []
    demo["train"]["load_in_4bit"] = False
    assert problems(demo, ROOT) == [
        "merge.into: must be base16 where train.load_in_4bit is false: training never saw the base in NF4"
    ]


def test_adapter_to_go_on_from_that_is_missing_is_said(demo: dict[str, Any], tmp_path: Path) -> None:
    demo["train"]["init_adapter"] = "custom"
    (found,) = problems(demo, tmp_path)
    assert "data/custom_adapter/ holds no adapter" in found


def test_evaluation_set_that_is_missing_is_said(demo: dict[str, Any], tmp_path: Path) -> None:
    demo["standardize"]["contamination"] = ["data/custom/exam.jsonl"]
    assert problems(demo, tmp_path) == [
        "standardize.contamination: data/custom/exam.jsonl is not there: copy it into data/custom"
    ]
    (tmp_path / "data/custom").mkdir(parents=True)
    (tmp_path / "data/custom/exam.jsonl").touch()
    assert problems(demo, tmp_path) == []


@pytest.mark.parametrize(("languages", "says"), [([], "null keeps all"), (["english"], "did you mean en?")])
def test_languages_that_are_none_are_answered_shortly(demo: dict[str, Any], languages: list[str], says: str) -> None:
    demo["standardize"]["languages"] = languages
    (found,) = problems(demo, ROOT)
    assert says in found
    assert len(found) < 150


def test_quantizations_that_nothing_here_can_make_are_told_with_what_is_missing(
    demo: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("LLAMA_CPP_DIR", "CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    assert problems(demo, ROOT) == []
    demo["gguf"]["quantizations"] = ["q4_k_m", "iq4_xs"]
    (found,) = problems(demo, ROOT)
    assert found.startswith("gguf.quantizations: iq4_xs: made by llama-quantize, which is not here")
    assert "cmake and ninja or make and a C compiler" in found
    assert found.endswith("without any of it: " + ", ".join(OURS))


def test_floor_of_a_quantization_that_there_is_not_is_told(demo: dict[str, Any]) -> None:
    demo["audit"]["gguf"]["q4_km"] = demo["audit"]["gguf"]["q4_k_m"]
    (found,) = problems(demo, ROOT)
    assert found.startswith("audit.gguf.q4_km: unknown quantization q4_km (did you mean q4_k_m?)")
