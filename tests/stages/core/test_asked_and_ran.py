import ast
import json
from pathlib import Path
from typing import Any

import pytest

from retune.use.presets import list_presets, read_preset
from stages.check import read_sections
from stages.core.asked_and_ran import NO_REASON, NOT_SEEN, AskedAndRan, Observation, compare, judge, list_keys
from stages.core.execution import begin_execution, write_execution
from stages.core.params import Params, Runtime
from tests.project import ROOT, STAGES, closure, runtime_keys_of

SECTIONS = [stage for stage in STAGES if stage != "check"]
CASES = [(preset, stage) for preset in list_presets(ROOT) for stage in SECTIONS]


def keys_by_hand(values: Any, key: str) -> list[str]:
    """Every key at or below one of params.yaml's, of mappings in lists by number."""
    if isinstance(values, dict) and values:
        return [one for name, value in values.items() for one in keys_by_hand(value, f"{key}.{name}")]
    if isinstance(values, list) and values and isinstance(values[0], dict):
        return [one for number, value in enumerate(values) for one in keys_by_hand(value, f"{key}.{number}")]
    return [key]


def no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


@pytest.mark.usefixtures("noted")
@pytest.mark.parametrize(("preset", "stage"), CASES)
def test_each_key_of_each_preset_stands_once_in_the_execution_record(preset: str, stage: str, tmp_path: Path) -> None:
    values = read_preset(ROOT, preset)
    models = read_sections()
    params, runtime = models[stage].model_validate(values[stage]), Runtime.model_validate(values["runtime"])
    uses = runtime_keys_of(stage)
    path = tmp_path / f"{stage}.json"
    write_execution(begin_execution(str(path), 0), stage, params, runtime, tuple(uses), "", {})
    found = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=no_key_twice)["asked_and_ran"]
    wanted = [*keys_by_hand(values[stage], stage), *(f"runtime.{key}" for key in {*uses, "log_level"})]
    assert sorted(found) == sorted(wanted)
    unseen = {key: one for key, one in found.items() if key != "runtime.log_level"}
    assert {one["state"] for one in unseen.values()} == {"unknown"}, "nothing ran"


@pytest.mark.parametrize("stage", SECTIONS)
def test_stage_says_which_keys_of_runtime_its_code_reads(stage: str) -> None:
    file = ROOT / f"stages/{stage}.py"
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in closure(file) if path.parent.name != "core"]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    read = {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "runtime"}
    if "runtime: Runtime" not in file.read_text(encoding="utf-8"):
        read = set()
    assert runtime_keys_of(stage) == read & set(Runtime.model_fields) - {"log_level"}, "run(..., runtime_keys=...)"


@pytest.mark.parametrize(
    ("asked", "seen", "state", "why"),
    [
        (2e-3, Observation(0.002), "equal", ""),
        (60, Observation(60.0), "equal", ""),
        ([], Observation([]), "equal", ""),
        (None, Observation(None, "r", chosen=True), "equal", ""),
        (2e-3, Observation(2e-4, "the machine"), "different", "the machine"),
        (2e-3, Observation(2e-4), "different", NO_REASON),
        (True, Observation(1), "different", NO_REASON),
        (0, Observation(ran=False), "different", NO_REASON),
        (["a", "b"], Observation(["b", "a"]), "different", NO_REASON),
        ("auto", Observation("bfloat16", "bf16 is here", chosen=True), "chosen", "bf16 is here"),
        (None, Observation(2, "one a core", chosen=True), "chosen", "one a core"),
        # a choice is the run's only where the key leaves it to the run
        ("float16", Observation("float32", "no fp16", chosen=True), "different", "no fp16"),
        ("auto", Observation("float32", "r"), "different", "r"),
        (None, Observation(30), "different", NO_REASON),
        (3, None, "unknown", NOT_SEEN),
        (None, None, "unknown", NOT_SEEN),
        (None, Observation(None, "nothing tells", known=False), "unknown", "nothing tells"),
    ],
)
def test_judge_says_what_ran_against_what_was_asked(asked: Any, seen: Observation | None, state: str, why: str) -> None:
    ran = None if seen is None else seen.ran
    assert judge(asked, seen) == AskedAndRan(asked=asked, ran=ran, state=state, why=why)  # type: ignore[typeddict-item]


def test_keys_of_empty_mappings_and_lists_of_values_are_one() -> None:
    values = {"options": {}, "targets": ["q", "k"], "sources": [{"a": 1}, {"a": 2}], "lora": {"r": 8}}
    assert dict(list_keys("s", values)) == {
        "s.options": {},
        "s.targets": ["q", "k"],
        "s.sources.0.a": 1,
        "s.sources.1.a": 2,
        "s.lora.r": 8,
    }


def test_what_was_seen_of_a_key_that_nobody_asks_for_is_said_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    class Two(Params):
        one: int

    found = compare({"s": Two(one=1)}, (), {"s.one": Observation(1), "s.other": Observation(2)})
    assert list(found) == ["s.one"]
    assert "params.yaml has no s.other" in caplog.text
