"""What params.yaml asked for against what ran: every key of it, compared with what the stage has seen.

What a stage has not seen is unknown, and unknown is never equal: a param that was read proves nothing of what ran.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from typing_extensions import TypedDict

from stages.core.params import Params
from stages.core.value_differences import is_same

log = logging.getLogger("retune")

State = Literal["equal", "chosen", "different", "unknown"]
"""equal: it ran as it was asked. chosen: `auto` or null asked the run to choose, and it chose that. different: something else ran.
unknown: nothing was seen that tells."""
NOT_SEEN = "nothing that ran tells"
NO_REASON = "no reason is known"


class AskedAndRan(TypedDict):
    """One key of params.yaml."""

    asked: Any
    ran: Any
    """None where it is unknown (and where none is what ran)."""
    state: State
    why: str
    """The reason of what is not equal; empty where it is."""


@dataclass(frozen=True)
class Observation:
    """What was seen to run for one key."""

    ran: object
    why: str = ""
    """The reason where it is not what was asked."""
    chosen: bool = False
    """Whether the key may leave the choice to the run."""
    known: bool = True
    """False: it was looked for, and what ran does not tell; `why` says why."""


def compare(
    asked: Mapping[str, Params], runtime_keys: tuple[str, ...], seen: Mapping[str, Observation]
) -> dict[str, AskedAndRan]:
    """{key: asked against ran} of each key of a stage's section and each of `runtime_keys`; each stands there once.

    Args:
        asked: {section: its params as the stage read them}; `runtime` is one.
        runtime_keys: the keys of `runtime` that the stage uses.
        seen: {key: what was seen}. One that params.yaml has not is said in the log.
    """
    keys = {
        key: value
        for section, values in asked.items()
        for key, value in list_keys(section, values.model_dump(mode="json"))
        if section != "runtime" or key.removeprefix("runtime.") in runtime_keys
    }
    for key in seen.keys() - keys.keys():
        log.warning("asked against ran: params.yaml has no %s", key)
    return {key: judge(value, seen.get(key)) for key, value in keys.items()}


def list_keys(prefix: str, value: object) -> Iterator[tuple[str, Any]]:
    """(key, value) of all that stands below a key of params.yaml; of mappings in a list by their number, from 0. An empty one is a value."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from list_keys(f"{prefix}.{name}", inner)
    elif isinstance(value, list) and value and all(isinstance(inner, dict) for inner in value):
        for number, inner in enumerate(value):
            yield from list_keys(f"{prefix}.{number}", inner)
    else:
        yield prefix, value


def make_plain(value: object) -> Any:  # noqa: ANN401 - any value of JSON
    """A value as JSON can have it: what is none of its own, and numbers that are not finite, as text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): make_plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [make_plain(inner) for inner in value]
    return str(value)


def judge(asked: object, seen: Observation | None) -> AskedAndRan:
    """One key: what was asked against what was seen."""
    if seen is None or not seen.known:
        return AskedAndRan(asked=asked, ran=None, state="unknown", why=seen.why if seen else NOT_SEEN)
    ran = make_plain(seen.ran)
    if is_same(asked, ran):
        return AskedAndRan(asked=asked, ran=ran, state="equal", why="")
    state: State = "chosen" if seen.chosen and asked in (None, "auto") else "different"
    return AskedAndRan(asked=asked, ran=ran, state=state, why=seen.why or NO_REASON)
