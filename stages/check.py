"""Check every param before any work is done and before any output is touched.

Reads  params.yaml, all of it.
Writes data/checked.json, whose content never changes: all other stages depend on it, so they wait for this stage and do not
       run again because of it.

    python -m stages.check --parameters params.yaml --checked data/checked.json
"""

import difflib
import importlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import stages.environment.active  # noqa: F401 - before what needs packages
from stages.core.errors import StageError
from stages.core.files import write_json
from stages.core.params import Params, Runtime, read_params, section_problems
from stages.core.runner import Output, Sections, run
from stages.dedup.contamination import find_evaluation_files
from stages.fetching.source_files import CUSTOM, find_custom_files
from stages.llama_cpp.programs import find_existing, list_lacking, say_lacking
from stages.llama_cpp.quantization_names import OURS, QUANTIZATIONS, describe_unknown

PROJECT = Path(__file__).resolve().parents[1]
"""The folder with dvc.yaml, which lists the stages, and with the code of each."""

WITHOUT_HELDOUT = {
    ("standardize", "group_by"): None,
    ("audit", "max_near_heldout_share"): None,
    ("audit", "min_heldout_rows"): 0,
    ("audit", "max_seen_answers"): None,
    ("audit", "min_loss_gain"): None,
    ("audit", "min_exact_match"): None,
}
"""{(section, key): the one value} of params that say nothing where nothing is held out."""


def check(parameters: Sections, checked: Output) -> None:
    """Say every error of params.yaml at once, or write that there is none."""
    found = problems(parameters, Path.cwd())
    if found:
        raise StageError("params.yaml is not right; nothing was run:\n  " + "\n  ".join(found))
    write_json(checked, {"params": "right"})


def problems(params: Mapping[str, Any], root: Path) -> list[str]:
    """Every error of all sections, in the order of the stages; empty when the pipeline can start.

    `root` is the project's folder, where the files that params name must exist.
    """
    sections = read_sections()
    found = [unknown_section(section) for section in params if section not in sections]
    for section, model in sections.items():
        if section not in params:
            found.append(f"{section}: this section is missing")
        else:
            found += section_problems(model, section, params[section])
    return found or [*find_contradictions(params), *find_missing_files(params, root), *find_missing_programs(params)]


@cache
def read_sections() -> Mapping[str, type[Params]]:
    """{section of params.yaml: its model}, in the order of dvc.yaml's stages; `runtime`, which is no stage's, comes last.

    A stage of dvc.yaml that is no Python file of stages/ has no section.
    """
    named = read_params(PROJECT / "dvc.yaml")["stages"]
    stages = [name for name in named if name != "check" and (PROJECT / "stages" / f"{name}.py").is_file()]
    models = {stage: params_model(stage) for stage in stages}
    return {stage: model for stage, model in models.items() if model is not None} | {"runtime": Runtime}


def params_model(stage: str) -> type[Params] | None:
    """What the function of a stage takes as its `params`; None if it takes none."""
    function = getattr(importlib.import_module(f"stages.{stage}"), stage)
    model: type[Params] | None = get_type_hints(function).get("params")
    return model


def unknown_section(section: str) -> str:
    """The message for a section that no stage has."""
    known = read_sections()
    near = difflib.get_close_matches(section, known, n=1)
    return f"{section}: unknown section" + (f"; did you mean `{near[0]}`?" if near else f"; known: {', '.join(known)}")


def find_contradictions(params: Mapping[str, Any]) -> list[str]:
    """Params that contradict one another, and floors that no run of them can reach: better said now than by the gate."""
    audit, evaluate = params["audit"], params["evaluate"]
    found = []
    if audit["min_exact_match"] is not None and not (evaluate["exact_match"] and evaluate["answer_rows"]):
        found.append(
            "audit.min_exact_match: must be null where no answer is checked (evaluate.exact_match, evaluate.answer_rows)"
        )
    train, longest = params["train"], params["template"]["max_length"]
    if train["layout"] == "packed" and train["pack_length"] < longest:
        found.append(
            f"train.pack_length: must be at least template.max_length ({longest}): no conversation is cut for a pack"
        )
    if params["merge"]["into"] == "dequantized_nf4" and not train["load_in_4bit"]:
        found.append("merge.into: must be base16 where train.load_in_4bit is false: training never saw the base in NF4")
    found += [f"audit.gguf.{name}: {describe_unknown(name)}" for name in audit["gguf"] if name not in QUANTIZATIONS]
    if params["standardize"]["heldout_fraction"] == 0:
        found += [
            f"{section}.{key}: must be {'null' if free is None else free} where nothing is held out (standardize.heldout_fraction is 0)"
            for (section, key), free in WITHOUT_HELDOUT.items()
            if params[section][key] != free
        ]
    return found


def find_missing_programs(params: Mapping[str, Any]) -> list[str]:
    """What the export would build llama-quantize with, where it needs that, has none, and cannot build one."""
    need = [name for name in params["gguf"]["quantizations"] if name not in OURS]
    try:
        lacks = list_lacking() if need and find_existing("llama-quantize") is None else []
    except StageError as error:
        return [f"gguf.quantizations: {error}"]
    if not lacks:
        return []
    said = (
        f"gguf.quantizations: {', '.join(need)}: made by llama-quantize, which is not here, and to build it {say_lacking(lacks)}. "
        "Install that, or name a folder with llama.cpp's programs in LLAMA_CPP_DIR; "
        f"without any of it: {', '.join(OURS)}"
    )
    return [said]


def find_missing_files(params: Mapping[str, Any], root: Path) -> list[str]:
    """The files that right params name and that are not there."""
    found = []
    for number, source in enumerate(params["fetch_data"]["sources"]):
        try:
            if source["source"].startswith(CUSTOM):
                find_custom_files(root / CUSTOM, source["source"], source["config"], source["split"])
        except StageError as error:
            found.append(f"fetch_data.sources.{number}: {error}")
    try:
        find_evaluation_files(root / CUSTOM, params["standardize"]["contamination"])
    except StageError as error:
        found.append(f"standardize.contamination: {error}")
    model = params["fetch_model"]["source"]
    if model == "custom" and not (root / "data/custom_base/config.json").is_file():
        found.append(
            "fetch_model.source: data/custom_base/ holds no model; `retune use --model FOLDER` brings one there"
        )
    if params["train"]["init_adapter"] == "custom" and not (root / "data/custom_adapter/adapter_config.json").is_file():
        found.append(
            "train.init_adapter: data/custom_adapter/ holds no adapter; copy a PEFT folder there, or set it to none"
        )
    template = params["template"]["chat_template"]
    if template.endswith(".jinja") and not (root / "data/custom" / template).is_file():
        found.append(f"template.chat_template: data/custom/{template} is not there")
    return found


if __name__ == "__main__":
    run(check)
