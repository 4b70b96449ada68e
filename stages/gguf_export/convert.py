"""A transformers folder -> one GGUF file of full precision, by llama.cpp's converter in a process of its own.

The file keeps the folder's own dtype, so nothing is rounded here; tensor_check.py proves that, since the converter ends well
on a folder that lacks a tensor, too.
"""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import stages
from stages.core.errors import StageError
from stages.gguf_export.converter import REFUSED
from stages.gguf_export.folder_tensors import Weight

log = logging.getLogger("retune")

LOG_LINES = 12
"""Lines of the converter's log that an error shows."""
OUTTYPES = {"F32": "f32", "F16": "f16", "BF16": "bf16"}


def outtype(weights: dict[str, Weight]) -> str:
    """The converter's name of the type that holds every matrix of the folder exactly.

    Raises StageError for a folder whose weights are quantized (merging gives 16-bit ones).
    """
    dtypes = {weight.dtype for weight in weights.values() if len(weight.shape) > 1}
    unknown = sorted(dtypes - set(OUTTYPES))
    if unknown:
        raise StageError(
            f"the merged model holds weights of type {', '.join(unknown)}; only F32, F16 and BF16 can be exported: merge again"
        )
    return OUTTYPES[dtypes.pop()] if len(dtypes) == 1 else "f32"


def start_conversion(folder: Path, path: Path, kind: str, name: str) -> subprocess.Popen[bytes]:
    """Start the converter on `folder`; it will write `path` with matrices of type `kind` (f32, f16 or bf16) and the model's `name`.

    It runs beside whatever the caller does next; `finish_conversion` waits for it.
    """
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    log.info("converting %s (%.1f MB) by llama.cpp's converter", name, size / 1e6)
    root = Path(stages.__file__).parents[1]
    command = [
        sys.executable,
        "-m",
        "stages.gguf_export.converter",
        str(folder),
        "--outfile",
        str(path),
        "--outtype",
        kind,
        "--model-name",
        name,
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")])),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    with path.with_suffix(".log").open(
        "wb"
    ) as said:  # no pipe: a full one would hold the converter up until it is read
        return subprocess.Popen(command, env=environment, stdout=said, stderr=subprocess.STDOUT)


def finish_conversion(process: subprocess.Popen[bytes], path: Path) -> None:
    """Wait for the converter.

    Raises:
        StageError: with the end of its log, if it fails or writes nothing.
        KeyboardInterrupt: Ctrl-C, which goes to all processes of a terminal, ended it.
    """
    try:
        process.wait()
    finally:
        process.kill()
    if process.returncode == -signal.SIGINT:
        raise KeyboardInterrupt
    said = path.with_suffix(".log").read_text(encoding="utf-8", errors="replace")
    lines = [line for line in said.splitlines() if line.strip()]
    if process.returncode == REFUSED:
        raise StageError(lines[-1])
    if process.returncode != 0 or not path.is_file():
        tail = "\n  ".join(lines[-LOG_LINES:])
        raise StageError(
            f"llama.cpp's converter failed on the merged model (exit code {process.returncode}):\n  {tail}"
        )
