import re
import subprocess
from pathlib import Path

import pytest

from stages.llama_cpp.programs import find_or_build
from stages.llama_cpp.quantization_names import ALIASES, NEEDS_IMATRIX, OTHERS, OURS, QUANTIZATIONS, find_problems
from tests.stages.gguf_export.support.models_in_small import write_model


@pytest.mark.slow
def test_names_are_those_of_a_real_llama_quantize() -> None:
    said = subprocess.run(
        [find_or_build("llama-quantize"), "--help"], capture_output=True, text=True, check=False
    ).stdout
    known = {name.lower(): int(number) for number, name in re.findall(r"^ +(\d+) +or +(\w+) +:", said, re.MULTILINE)}
    assert len(known) > 30
    ours = {name: known_as.file_type for name, known_as in QUANTIZATIONS.items()}
    assert known == ours | {alias: ours[name] for alias, name in ALIASES.items()}


@pytest.mark.slow
def test_names_that_need_an_importance_matrix_are_those_for_which_llama_quantize_asks(tmp_path: Path) -> None:
    write_model(tmp_path / "source.gguf", layers=8)
    asked = set()
    for name in QUANTIZATIONS:
        command = [find_or_build("llama-quantize"), "--dry-run", tmp_path / "source.gguf", name.upper()]
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        if "will require an imatrix" in ran.stdout + ran.stderr:
            asked.add(name)
    assert asked == NEEDS_IMATRIX


def test_names_belong_to_one_maker() -> None:
    assert not OURS.keys() & OTHERS.keys()
    assert OTHERS.keys() >= NEEDS_IMATRIX, "the kernels here would abort without one"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["q4_k_m", "iq3_m"], []),
        (["q4_km"], ["unknown quantization q4_km (did you mean q4_k_m?); known: f32, f16"]),
        (["Q8_0"], ["unknown quantization Q8_0 (did you mean q8_0?)"]),
        (["q5_k"], ["q5_k is llama.cpp's other name of q5_k_m; write that"]),
        (["q8_0", "q8_0"], ["named twice: q8_0"]),
        (["iq2_xs"], ["iq2_xs needs an importance matrix"]),
        (["copy", "iq1_s"], ["unknown quantization copy", "iq1_s needs an importance matrix"]),
    ],
)
def test_problems_of_a_list_are_told_in_words(names: list[str], said: list[str]) -> None:
    found = find_problems(names, imatrix=False)
    assert len(found) == len(said)
    assert all(problem.startswith(start) for problem, start in zip(found, said, strict=True)), found


def test_problems_of_an_importance_matrix_end_where_there_is_one() -> None:
    assert find_problems(sorted(NEEDS_IMATRIX), imatrix=True) == []
