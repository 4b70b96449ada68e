"""Strict params: every key named, none forgotten, no default in the code; all errors at once, in words a person can act on."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.core.errors import StageError

# there are no plugins: looking for them through all installed packages costs every stage's start 20 ms
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

P = TypeVar("P", bound="Params")


class Params(BaseModel):
    """The base of every params section: strict types, no unknown key, frozen. Values live in params.yaml alone."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())


class Runtime(Params):
    """How the work is done, not what comes out: changing it runs nothing again. Rounding aside; it is in no cache key."""

    device: Literal["auto", "cpu", "cuda"]
    """Where the model stages run. auto: on CUDA where there is one."""
    workers: Annotated[int, Field(ge=1)] | None
    """Processes of the data stages and threads of the quantizer; null: one a core."""
    processes: Annotated[int, Field(ge=1)] | None
    """Processes that share each step of training; null: one a GPU, one on the CPU. On this machine. A step stays what `train` says: the
    same rows, the mean over all of its tokens."""
    sharding: Literal["none", "fsdp"]
    """What each of several processes holds of the base. none: all of it. fsdp: its part of the linear layers; the others' come layer by
    layer while they are needed. So a 16-bit base fits that is too large for one GPU; the embedding and the head stay whole on each."""
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"]
    """Conversations (packs) in one forward pass of training, at most; auto: planned. With `train.layout` packed: packs. Smaller needs less
    memory; the optimizer's step stays what `train` says. auto: the fastest that the memory is enough for (`retune plan` shows it)."""
    memory_limit_gb: Annotated[float, Field(gt=0)] | None
    """GiB of the GPU's memory that training may take; null: what is free."""
    save_steps: Annotated[int, Field(ge=1)] | None
    """Optimizer steps from one checkpoint of training to the next; null: none. In scratch: what an interruption can cost."""
    report_to: Literal["none", "tensorboard", "wandb", "mlflow", "trackio", "dvclive"]
    """Where the figures also go. While training runs; the package is yours to install (`uv pip install NAME`)."""
    gradient_checkpointing: Literal["auto", "unsloth", "on", "off"]
    """Activations computed twice: less memory, more time. In the backward pass again. `unsloth` also moves them to the host's memory. auto:
    of as many layers as the memory asks for."""
    evaluation_batch: Annotated[int, Field(ge=1)]
    """Rows in one forward pass of `evaluate`."""
    log_level: Literal["debug", "info", "warning"]
    """How much the stages say."""


def read_params(path: Path) -> dict[str, Any]:
    """params.yaml (YAML 1.2, as DVC reads it: `2e-4` is a number) as plain values.

    Raises StageError if it is missing or is no mapping of sections.
    """
    try:
        values = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        msg = f"{path.name} is missing here. Run from the project's folder; `retune use demo` writes a new one."
        raise StageError(msg) from error
    except (YAMLError, UnicodeDecodeError) as error:
        msg = f"{path.name} is not valid YAML: {error}"
        raise StageError(msg) from error
    except RecursionError as error:
        msg = f"{path.name} holds values too deep in one another; `git checkout -- {path.name}` brings back what was committed"
        raise StageError(msg) from error
    if not isinstance(values, dict):
        msg = f"{path.name} must hold one mapping for each stage. `retune use demo` writes a right one."
        raise StageError(msg)
    return values


def section_problems(model: type[Params], section: str, values: object) -> list[str]:
    """Every error of one section, each `section.key: what is wrong (found ...)`; empty when it is right."""
    if not isinstance(values, dict):
        return [f"{section}: must be a mapping of {', '.join(model.model_fields)}"]
    try:
        model.model_validate(values)
    except ValidationError as error:
        return [problem(section, model, values, detail) for detail in error.errors(include_url=False)]
    return []


def section_params(model: type[P], section: str, values: Mapping[str, Any]) -> P:
    """The validated section of params.yaml's values. Raises StageError with every error of it."""
    if section not in values:
        msg = f"params.yaml: the section `{section}` is missing"
        raise StageError(msg)
    problems = section_problems(model, section, values[section])
    if problems:
        raise StageError("params.yaml:\n  " + "\n  ".join(problems))
    return model.model_validate(values[section])


def problem(section: str, model: type[Params], values: object, detail: Any) -> str:  # noqa: ANN401 - pydantic's ErrorDetails
    """One pydantic error in our words."""
    keys = user_keys(detail["loc"], values)
    where = ".".join([section, *keys])
    if detail["type"] == "missing":
        return f"{where}: missing (there are no defaults)"
    if detail["type"] == "extra_forbidden":
        known = fields_at(model, detail["loc"][:-1])
        near = difflib.get_close_matches(keys[-1] if keys else "", known, n=1)
        return f"{where}: unknown key" + (f"; did you mean `{near[0]}`?" if near else f"; known: {', '.join(known)}")
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    found = "" if isinstance(detail["input"], dict) else f" (found {detail['input']!r})"
    return (
        f"{where}: should be {message}{found}"
        if detail["msg"].startswith("Input should be ")
        else f"{where}: {message}{found}"
    )


def user_keys(location: tuple[str | int, ...], values: object) -> list[str]:
    """The part of pydantic's location that is in the user's file: the tag of a union's branch is not, a missing key (the last) is."""
    keys: list[str] = []
    for number, part in enumerate(location, start=1):
        inside = isinstance(values, (dict, list)) and (
            part in values if isinstance(values, dict) else isinstance(part, int)
        )
        if inside:
            values = values[part]  # type: ignore[index]
        if inside or (isinstance(values, dict) and number == len(location)):
            keys.append(str(part))
    return keys


def fields_at(model: type[Params], location: tuple[str | int, ...]) -> list[str]:
    """The keys that are known at a place below a section; of a union's branches, those of the one that its tag names, or of all."""
    found: list[type[Params]] = [model]
    for part in location:
        if any(str(part) in inner.model_fields for inner in found):
            kinds = [inner.model_fields[str(part)].annotation for inner in found if str(part) in inner.model_fields]
            found = [inner for kind in kinds for inner in models_in(kind)]
        else:  # an index of a list, or a branch's tag, which is the model's name
            found = [inner for inner in found if inner.__name__ == part] or found
    return [name for inner in found for name in inner.model_fields]


def models_in(kind: object) -> list[type[Params]]:
    """The models that a field's type speaks of, inside of lists and unions too."""
    if isinstance(kind, type) and issubclass(kind, Params):
        return [kind]
    return [inner for part in get_args(kind) for inner in models_in(part)]
