"""How fast `retune verify` hashes: both digests of files made here, of sizes as a run has them, in one reading.

    python -m tests.bench.verify [GB] [FOLDER]

Prints gigabytes a second by the clock, and what two cores would do that had nothing else to do (by the processor's time).
"""

import os
import sys
import tempfile
import time
from pathlib import Path

from retune.verify.digests import hash_files

SHARES = (0.5, 0.25, 0.15, 0.09, 0.01)
"""Of the whole, for each file: one is as large as all others, as a merged model beside its GGUF files."""


def main() -> None:
    size = int(float(sys.argv[1]) * 1e9) if len(sys.argv) > 1 else 2_500_000_000
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as folder:
        block = os.urandom(1 << 24)
        for number, share in enumerate(SHARES):
            with (Path(folder) / str(number)).open("wb") as file:
                for _ in range(max(1, int(size * share) >> 24)):
                    file.write(block)
        for both in (True, False):
            clock, processor = time.perf_counter(), time.process_time()
            found, _ = hash_files(Path(folder).iterdir(), "hashing", sha256=both)
            clock, processor = time.perf_counter() - clock, time.process_time() - processor
            done = sum(one.size for one in found.values()) / 1e9
            sys.stdout.write(
                f"{'md5 and sha256' if both else 'md5 alone'}: {done:.1f} GB in {clock:.1f} s, {done / clock:.2f} GB/s; "
                f"{processor:.1f} processor seconds: {2 * done / processor:.2f} GB/s on two idle cores\n"
            )


if __name__ == "__main__":
    main()
