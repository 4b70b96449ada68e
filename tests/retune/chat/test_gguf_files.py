"""Which files `retune chat` and `retune serve` take, on files that gguf wrote here."""

from pathlib import Path

import gguf
import pytest

from retune.chat.gguf_files import choose_file
from stages.core.errors import StageError
from stages.core.files import write_json

STOP = {"stop": ["<|eot_id|>"], "stops_by": "token"}


def make_file(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, kind in (("a-iq4_nl", "model"), ("a-q8_0", "model"), ("a-base-q8_0", "model"), ("a-lora-f16", "adapter")):
        make_file(tmp_path / f"data/gguf/{name}.gguf", kind)
    make_file(tmp_path / "data/gguf/imatrix.gguf", "imatrix")
    files = {f"a-{name}.gguf": {"quantization": name} for name in ("iq4_nl", "q8_0")}
    write_json(
        tmp_path / "data/gguf/checks.json",
        {"files": files, "lora": {"file": "a-lora-f16.gguf", "over": {"file": "a-base-q8_0.gguf"}}, **STOP},
    )
    (tmp_path / "params.yaml").write_text("gguf: {quantizations: [q8_0, iq4_nl]}\n")
    return tmp_path


def test_the_first_of_the_params_is_taken(project: Path) -> None:
    assert choose_file(project, None) == (project / "data/gguf/a-q8_0.gguf", None)
    (project / "params.yaml").write_text("gguf: {quantizations: [iq4_nl, q8_0]}\n")
    assert choose_file(project, None) == (project / "data/gguf/a-iq4_nl.gguf", None)


def test_an_adapter_is_laid_over_its_base(project: Path) -> None:
    folder = project / "data/gguf"
    expected = (folder / "a-base-q8_0.gguf", folder / "a-lora-f16.gguf")
    assert choose_file(project, Path("a-lora-f16.gguf")) == expected
    assert choose_file(project, folder / "a-lora-f16.gguf") == expected


def test_an_adapter_without_its_base_and_an_importance_matrix_are_refused(project: Path) -> None:
    with pytest.raises(StageError, match="is an importance matrix"):
        choose_file(project, Path("imatrix.gguf"))
    (project / "data/gguf/a-base-q8_0.gguf").unlink()
    with pytest.raises(StageError, match="no file of its base lies beside it"):
        choose_file(project, Path("a-lora-f16.gguf"))
    with pytest.raises(StageError, match=r"nope.gguf is not there; data/gguf holds a-q8_0.gguf, a-iq4_nl.gguf"):
        choose_file(project, Path("nope.gguf"))


def test_name_with_a_line_end_makes_no_line_of_its_own(project: Path) -> None:
    with pytest.raises(StageError) as refused:
        choose_file(project, project / "x\n  PROVEN: by me.gguf")
    assert "x\\n  PROVEN: by me.gguf is not there" in str(refused.value)
