"""What the files say of their origin, read back as anybody reads it, and README.md's commands."""

import ast
import importlib.metadata
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stages.contracts.gguf import KEYS, KINDS
from stages.core.errors import StageError
from stages.core.files import write_json
from stages.gguf_export.provenance_keys import read_origin, records_digest, tuned_metadata
from stages.gguf_export.readme import render_readme
from stages.tokenization.exportable import pretokenizer as rules
from tests.project import ROOT
from tests.stages.gguf_export.support.adapters_in_small import make_trained
from tests.stages.gguf_export.support.models_in_small import LLAMA_3_TEMPLATE, make_tokens
from tests.stages.gguf_export.support.records_in_small import BEFORE, COMMAND, REVISION, export, make_records, params
from tests.stages.gguf_export.support.tokenizers_in_small import save, split_by, train


def record_files(folder: Path) -> list[Path]:
    return [folder / f"{stage}.json" for stage in BEFORE]


def make_weights(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"adapter")
    return folder / "adapter_model.safetensors"


def by_sha256sum(folder: Path) -> str:
    """The hash of the records in a folder as the contract tells an auditor to make it, with no line of ours."""
    line = next(
        line
        for line in Path("stages/contracts/gguf.py").read_text(encoding="utf-8").splitlines()
        if "| sha256sum" in line
    )
    stages = sorted(file.stem for file in folder.glob("*.json"))
    command = line.split("`")[1].replace("STAGES", " ".join(stages))
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.split()[0]


def test_records_hash_is_what_the_documented_command_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    make_records(tmp_path)
    assert records_digest(record_files(tmp_path)) == by_sha256sum(tmp_path)
    assert records_digest(reversed(record_files(tmp_path))) == by_sha256sum(tmp_path)


@pytest.mark.parametrize("stage", BEFORE)
def test_records_hash_changes_with_any_byte_of_any_record(tmp_path: Path, stage: str) -> None:
    make_records(tmp_path)
    before = records_digest(record_files(tmp_path))
    file = tmp_path / f"{stage}.json"
    file.write_text(file.read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert records_digest(record_files(tmp_path)) != before


def test_record_of_a_stage_that_somebody_has_added_is_in_the_hash(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(ROOT)
    make_records(tmp_path / "records")
    weights = make_weights(tmp_path / "adapter")
    before = read_origin(record_files(tmp_path / "records"), weights, None)
    write_json(tmp_path / "records/redact.json", {"stage": "redact"})
    origin = read_origin([*record_files(tmp_path / "records"), tmp_path / "records/redact.json"], weights, None)
    assert origin["records_sha256"] == by_sha256sum(tmp_path / "records") != before["records_sha256"]
    said = tuned_metadata(origin, "model")
    assert said[KEYS["records"]] == origin["records_sha256"]


def test_hub_ids_become_organization_name_and_version_and_local_ones_a_name(tmp_path: Path) -> None:
    make_records(tmp_path)
    says = tuned_metadata(read_origin(record_files(tmp_path), make_weights(tmp_path / "adapter"), "llama3.2"), "model")
    general = {key: value for key, value in says.items() if key.startswith("general.")}
    assert general == {
        "general.license": "llama3.2",
        "general.base_model.count": 1,
        "general.base_model.0.name": "small-base",
        "general.base_model.0.organization": "somebody",
        "general.base_model.0.version": REVISION,
        "general.dataset.count": 2,
        "general.dataset.0.name": "dialogues",
        "general.dataset.0.organization": "somebody",
        "general.dataset.0.version": REVISION,
        "general.dataset.1.name": "custom/mine.jsonl",
    }


def test_licence_of_null_is_left_out(tmp_path: Path) -> None:
    make_records(tmp_path)
    origin = read_origin(record_files(tmp_path), make_weights(tmp_path / "adapter"), None)
    assert "general.license" not in tuned_metadata(origin, "model")


def test_records_that_are_another_stages_or_too_few_are_refused(tmp_path: Path) -> None:
    make_records(tmp_path)
    weights = make_weights(tmp_path / "adapter")
    with pytest.raises(StageError, match=r"the record of merge is not among the export's \(fetch_data, fetch_model\)"):
        read_origin(record_files(tmp_path)[:2], weights, None)
    (tmp_path / "train.json").write_bytes((tmp_path / "merge.json").read_bytes())
    with pytest.raises(StageError, match=r"train\.json is not the record of train"):
        read_origin(record_files(tmp_path), weights, None)


def told(**change: Any) -> str:
    """README.md of an export of which this is known."""
    quality = {
        "kl": 0.001,
        "kl_error": None,
        "top_1_agreement": 0.99,
        "perplexity": 2.0,
        "exact_match": None,
        "answers_equal": 0,
    }
    source = {"source": "demo", "revision": None}
    checks: Any = {
        "files": {"small-q8_0.gguf": {"quantization": "q8_0", "bytes": 1_500_000, "quality": quality}},
        "lora": None,
        "lora_left_out": None,
        "origin": {
            "license": None,
            "base": source,
            "datasets": [source],
            "records_sha256": "e" * 64,
        },
        "merged": {"perplexity": 2.0, "exact_match": None},
        "merged_dtype": "float32",
        "split": "heldout",
        "rows": ["0" * 32],
        "tokens": 10,
        "answers": 0,
        "stop": ["<end>"],
        "stops_by": "token",
        "modelfile_template": True,
        "imatrix": None,
        **change,
    }
    return render_readme("Small", checks, BEFORE, {"temperature": 0.7, "min_p": 0.1, "max_new_tokens": 256}, 131_072)


def test_readme_of_a_model_that_stops_at_a_text_tells_it_to_every_runner() -> None:
    stop = ['[it\'s "over"]\n']
    text = told(stop=stop, stops_by="text")
    body = text.split("\n  -d ", 1)[1].split("\n```", 1)[0]
    said = subprocess.run(["bash", "-c", f"printf %s {body}"], capture_output=True, text=True, check=True).stdout
    assert json.loads(said)["stop"] == stop
    cli = next(line for line in text.splitlines() if line.startswith("llama-cli"))
    assert shlex.split(text[text.index(cli) :].split("```", 1)[0])[-5:] == ["-r", *stop, "-st", "-p", "Hello"]
    lists = [
        ast.literal_eval(node)
        for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.List) and all(isinstance(item, ast.Constant) for item in node.elts)
    ]
    assert lists == [stop, stop]


def test_readme_tells_the_error_of_a_divergence_and_what_an_importance_matrix_may_do() -> None:
    assert "importance matrix" not in told()
    assert " ± " not in told()
    quality = {
        "kl": 0.001,
        "kl_error": 0.0002,
        "top_1_agreement": 0.99,
        "perplexity": 2.0,
        "exact_match": None,
        "answers_equal": 0,
    }
    file = {"quantization": "q8_0", "bytes": 1_500_000, "quality": quality}
    text = told(imatrix={"rows": 3}, files={"small-q8_0.gguf": file})
    assert "| 0.001 ± 0.0004 |" in text
    assert "quantized with an importance matrix" in text


def test_readme_of_a_model_that_stops_at_a_token_tells_no_runner_to() -> None:
    assert "stop" not in told().replace("stops", "").split("## llama.cpp")[1].split("## Ollama")[0]


def test_readme_gives_the_reason_where_there_is_no_adapter_and_leaves_out_what_is_not_known() -> None:
    text = told(lora_left_out="it is a DoRA")
    assert "no GGUF file of the adapter alone; it is a DoRA" in text
    assert "--lora" not in text
    assert text.startswith("---\nlibrary_name: gguf\n---\n")
    assert "Licence: not stated" in text
    assert "-c 4096" in text
    assert "ollama create small -f Modelfile" in text


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("exported")
    tokenizer = save(train(split_by(rules.LLAMA_3)), root / "tokenizer", LLAMA_3_TEMPLATE)
    make_trained(root, tokenizer)
    make_tokens(root / "tokens", tokenizer)
    return root, export(root, params("q8_0", "q4_k_m", lora="f16", lora_base="q8_0", license="llama3.2"))


def values(path: Path) -> dict[str, Any]:
    from gguf import GGUFReader

    return {name: field.contents() for name, field in GGUFReader(path).fields.items() if not name.startswith("GGUF.")}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small-q8_0.gguf", "small-q4_k_m.gguf", "small-lora-f16.gguf"])
def test_file_says_where_it_comes_from(
    exported: tuple[Path, dict[str, Any]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    root, found = exported
    said = values(root / "gguf" / name)
    assert said["general.name"] == "small"
    assert said["general.license"] == "llama3.2"
    assert f"{said['general.base_model.0.organization']}/{said['general.base_model.0.name']}" == "somebody/small-base"
    assert said["general.base_model.0.version"] == said["general.dataset.0.version"] == REVISION
    assert said[KEYS["base"]] == "b" * 64
    assert said[KEYS["dataset"]] == "d" * 64
    done = subprocess.run(
        ["sha256sum", root / "adapter/adapter_model.safetensors"], capture_output=True, text=True, check=True
    )
    assert said[KEYS["adapter"]] == done.stdout.split()[0]
    assert said[KEYS["records"]] == by_sha256sum(root / "records") == found["origin"]["records_sha256"]
    assert said[KEYS["kind"]] == KINDS["lora" if "lora" in name else "model"]
    assert said[KEYS["merged_into"]] == "base16"
    assert said[KEYS["version"]] == importlib.metadata.version("retune") == found["origin"]["version"]
    assert shlex.split(said[KEYS["command"]]) == ["python", "-m", "stages.gguf", *COMMAND]


@pytest.mark.slow
def test_base_file_says_nothing_of_the_training(exported: tuple[Path, dict[str, Any]]) -> None:
    said = values(exported[0] / "gguf/small-base-q8_0.gguf")
    assert said["general.name"] == "small-base"
    assert said["general.base_model.0.version"] == REVISION
    assert said[KEYS["kind"]] == KINDS["base"]
    training = {KEYS[name] for name in ("records", "adapter", "dataset", "merged_into")}
    assert not {*training, "general.dataset.count"} & said.keys()


@pytest.mark.slow
def test_readme_names_the_files_their_figures_the_sampling_and_the_licence(
    exported: tuple[Path, dict[str, Any]],
) -> None:
    root, found = exported
    text = (root / "gguf/README.md").read_text(encoding="utf-8")
    assert text.startswith(
        "---\nlicense: llama3.2\nbase_model: somebody/small-base\ndatasets:\n- somebody/dialogues\nlibrary_name: gguf\n---\n"
    )
    named = set(re.findall(r"small[a-z0-9_-]*\.gguf", text))
    assert named == {path.name for path in (root / "gguf").glob("*.gguf")}
    for name, file in [*found["files"].items(), (found["lora"]["file"], found["lora"])]:
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}`"))
        assert f"{file['quality']['kl']:.2g}" in row
    assert "--temp 0.7 --min-p 0.1 --top-k 0 --top-p 1.0 -n 256" in text
    assert f"at `{REVISION}`" in text
    assert found["origin"]["records_sha256"] in text
    assert "{{" not in text
    assert "{%" not in text


@pytest.mark.slow
def test_readmes_python_runs_as_it_stands(exported: tuple[Path, dict[str, Any]]) -> None:
    root, _ = exported
    text = (root / "gguf/README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    serve, peft = (
        next(block for block in blocks if f"import {name}" in block) for name in ("xllamacpp", "AutoModelForCausalLM")
    )
    adapter = re.search(r"`(params\.model\.path = .*?)` and `(params\.lora_adapters = .*?)`", text)
    assert adapter is not None
    with_adapter = re.sub(r"params\.model\.path = .*", f"{adapter.group(1)}\n{adapter.group(2)}", serve)
    more = '\nprint(len(tokenizer("Hello").input_ids), model.peft_config["default"].r)\n'
    for code in (serve, with_adapter, peft + more):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=root / "gguf", capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.strip()


@pytest.mark.slow
def test_checks_hold_the_origin(exported: tuple[Path, dict[str, Any]]) -> None:
    origin = exported[1]["origin"]
    assert origin["base"] == {"source": "somebody/small-base", "revision": REVISION}
    assert [source["source"] for source in origin["datasets"]] == ["somebody/dialogues", "custom/mine.jsonl"]
    assert origin["license"] == "llama3.2"
    assert json.dumps(origin).count("/tmp") == 0
