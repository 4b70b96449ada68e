"""Say it in words when another Python than the project's runs the pipeline. Imported by `check`, the first stage, before anything else."""

import importlib.util
import sys

if importlib.util.find_spec("pyarrow") is None or importlib.util.find_spec("pydantic") is None:
    sys.exit(
        f"check: {sys.executable} has not the packages of Retune. Activate the environment first "
        "(`source .venv/bin/activate`), or let `make repro` do it."
    )
