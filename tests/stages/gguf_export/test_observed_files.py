from pathlib import Path
from typing import Any

from retune.use.presets import read_preset
from stages.core.asked_and_ran import Observation, compare
from stages.core.files import write_text
from stages.gguf import GgufParams
from stages.gguf_export.observed_files import HeaderFacts, note_files, read_sampling
from tests.project import ROOT

MODELFILE = """FROM ./a.gguf
TEMPLATE \"\"\"PARAMETER min_p 9\"\"\"
PARAMETER stop "a b"
PARAMETER temperature 0.7
PARAMETER min_p 0.1
PARAMETER num_predict 256
PARAMETER top_k 0
"""


def test_sampling_is_that_of_the_modelfile() -> None:
    assert read_sampling(MODELFILE) == {
        "gguf.sampling.temperature": 0.7,
        "gguf.sampling.min_p": 0.1,
        "gguf.sampling.max_new_tokens": 256,
    }


def test_file_of_another_type_than_its_name_says_is_seen(tmp_path: Path, noted: dict[str, Observation]) -> None:
    write_text(tmp_path / "Modelfile", MODELFILE)
    values = read_preset(ROOT, "demo")["gguf"]
    heads = [HeaderFacts(values["name"], values["license"], kind) for kind in ("q8_0", "q5_k_m")]
    checks: Any = {
        "files": {},
        "lora": None,
        "lora_left_out": "DoRA has no such file",
        "imatrix": None,
        "rows": ["a"] * 20,
        "split": "heldout",
        "answers": 64,
    }
    note_files(tmp_path, heads, checks, 2)
    found = compare({"gguf": GgufParams.model_validate(values)}, (), noted)
    assert {key: one["ran"] for key, one in found.items() if one["state"] == "different"} == {
        "gguf.quantizations": ["q8_0", "q5_k_m"],
        "gguf.lora": "none",
        "gguf.lora_base": None,
        "gguf.check_rows": 20,
    }
    assert found["gguf.lora"]["why"] == "DoRA has no such file"
    assert {key for key, one in found.items() if one["state"] == "unknown"} == {"gguf.imatrix_tokens"}
