r"""Measure a merge with its check: seconds, peak resident memory, and the floor that the disk sets. Each merge is a process of its own.

    python -m tests.bench.merge FOLDER [--layers 28] [--into base16 dequantized_nf4] [--device cpu] [--rows 4] [--tokens 512]

Writes a Llama-3.2-3B shape with random weights into FOLDER (6.4 GB; 12.9 GB with a merged model), and removes it at the end.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARD = 5_000_000_000
"""Bytes of a shard, as the hub's models have them."""
MERGE = """
import json, resource, sys, time
from pathlib import Path
from stages import merge as stage
from stages.core.params import Runtime
from tests.stages.training.support.tiny import RUNTIME
root, into, device, rows = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
real, seconds = stage.compare, {}
started, used = time.perf_counter(), time.process_time()
def timed(*given):
    seconds["fold"] = time.perf_counter() - started
    seconds["fold_cpu"] = time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds["fold_peak_mib"] = peak // 1024
    return real(*given)
stage.compare = timed
params = stage.MergeParams(into=into, check_rows=rows, max_logit_difference=1e6)
stage.merge(root / "base", root / "adapter", root / "tokens", root / "merged", params, Runtime.model_validate({**RUNTIME, "device": device}))
seconds["all"] = time.perf_counter() - started
seconds["cpu"] = time.process_time() - used
seconds["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
checks = json.loads((root / "merged" / "checks.json").read_text())
print("FIGURES " + json.dumps({"into": into, "device": device, **seconds, "checks": checks}))
"""


def make(root: Path, layers: int, rows: int, tokens: int) -> None:
    """Base, adapter and tokens below `root`."""
    import random

    import pyarrow as pa

    from stages.contracts.tokens import SCHEMA
    from tests.arrow_files import write_arrow
    from tests.stages.training.support.tiny import make_tokenizer, make_tokens
    from tests.stages.weights.support.random_model import LLAMA_3B, make_base, make_random_adapter

    make_tokenizer(root / "tokens" / "tokenizer", [])
    make_tokens(root / "tokens", [])
    seed = random.Random(0)
    ids = [[seed.randrange(5, 100_000) for _ in range(tokens)] for _ in range(rows)]
    labels = [[-100] * (tokens // 2) + row[tokens // 2 :] for row in ids]
    names = [f"{number:032x}" for number in range(rows)]
    write_arrow(root / "tokens" / "heldout.arrow", pa.table([names, ids, labels], schema=SCHEMA))
    make_base(root / "base", SHARD, **{**LLAMA_3B, "num_hidden_layers": layers})
    make_random_adapter(root / "base", root / "tokens", root / "adapter")


def disk(root: Path) -> dict[str, float]:
    """Seconds to write what a merge writes and to read what it reads, with nothing between, past the page cache."""
    files = sorted((root / "base").glob("*.safetensors"))
    size = sum(file.stat().st_size for file in files)
    started = time.perf_counter()
    target = root / "copy"
    subprocess.run(
        ["dd", "if=/dev/zero", f"of={target}", "bs=16M", f"count={size >> 24}", "oflag=direct"],
        check=True,
        capture_output=True,
    )
    written = time.perf_counter() - started
    target.unlink()
    started = time.perf_counter()
    for file in files:
        subprocess.run(["dd", f"if={file}", "of=/dev/null", "bs=16M", "iflag=direct"], check=True, capture_output=True)
    return {"gigabytes": size / 1e9, "write": written, "read": time.perf_counter() - started}


def main() -> None:
    """Make, measure, remove."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--into", nargs="+", default=["base16", "dequantized_nf4"])
    parser.add_argument("--device", nargs="+", default=["cpu"])
    given = parser.parse_args()
    root = given.folder / "merge-bench"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    try:
        make(root, given.layers, given.rows, given.tokens)
        print(json.dumps({"floor, seconds": disk(root)}), flush=True)  # noqa: T201
        for device in given.device:
            for into in given.into:
                shutil.rmtree(root / "merged", ignore_errors=True)
                command = [sys.executable, "-c", MERGE, str(root), into, device, str(given.rows)]
                env = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
                done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
                lines = [line for line in done.stdout.splitlines() if line.startswith("FIGURES")]
                print(lines[0] if lines else done.stdout[-2000:] + done.stderr[-3000:], flush=True)  # noqa: T201
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
