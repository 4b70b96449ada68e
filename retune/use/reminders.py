"""What `retune use` reminds of: params that do not fit a change of others any more, and that no check can refuse."""

from collections.abc import Mapping
from typing import Any

NAMING = ("gguf.license", "gguf.name", "report.title")
"""Params that say whose model it is."""


def reminders(changed: Mapping[str, object], values: Mapping[str, Any], *, whole: bool = False) -> list[str]:
    """Lines about params that were true of the former base or data, or that do nothing beside others.

    Args:
        changed: by `section.key`, the params that changed.
        values: all sections, as they are now.
        whole: whether they are a preset as it is, which names its own model.
    """
    found = []
    gguf, report = values["gguf"], values["report"]
    if not whole and any(name == "fetch_model.source" or name.startswith("fetch_data.sources") for name in changed):
        now = {"gguf.license": gguf["license"], "gguf.name": gguf["name"], "report.title": report["title"]}
        if "gguf.license" in changed and gguf["license"] is None:
            found.append(
                "gguf.license is null: the former one was the former base's; --set gguf.license=... says the new one's"
            )
        stay = [f"{name} {now[name]}" for name in NAMING if name not in changed and now[name] is not None]
        if stay:
            found.append(
                f"another base or other data, and still {', '.join(stay)}: the files and the model card will say so"
            )
    into, lora = values["merge"]["into"], gguf["lora"]
    if lora != "none" and into != "base16" and {"merge.into", "gguf.lora"} & set(changed):
        found.append(
            f"no adapter file will be written (gguf.lora: {lora}): with merge.into: {into} the adapter over the 16-bit base is another model"
        )
    return found
